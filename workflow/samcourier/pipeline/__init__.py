"""From config, command line and sample sheet to a run."""
