"""Read image files into the planes to segment: axes, selection, statistics."""
