"""The segmentation engines behind one interface."""
