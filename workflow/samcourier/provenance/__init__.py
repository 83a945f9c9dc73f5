"""Describe a run as a Workflow Run RO-Crate, and read a crate to repeat its run."""
