"""Everything that shaped a run, as a Workflow Run RO-Crate, and the run made again from it."""
