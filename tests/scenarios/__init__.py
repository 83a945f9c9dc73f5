"""Faults, alone and mixed, against whole runs of the real pipeline, in the manner of Jepsen."""
