"""The results folder: where each file lies, and the records of a run."""
