"""The state of a run, read from its results folder alone."""
