"""The outcome of a run: which masks are whole, and how accurate they are."""
