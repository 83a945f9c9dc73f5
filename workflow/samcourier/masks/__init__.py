"""Masks as OME-Zarr: written whole, read back, and their integrity."""
