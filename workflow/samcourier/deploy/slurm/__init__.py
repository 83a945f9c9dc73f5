"""The service as a SLURM job."""
