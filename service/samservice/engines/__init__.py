"""The segmentation engines and their common interface."""
