"""Write masks as OME-Zarr, read them, and check their integrity."""
