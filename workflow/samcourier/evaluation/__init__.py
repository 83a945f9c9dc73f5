"""The outcome of a run: which masks are complete, and how accurate they are."""
