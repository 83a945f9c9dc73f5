"""The results folder: the paths of its files, and the records of a run."""
