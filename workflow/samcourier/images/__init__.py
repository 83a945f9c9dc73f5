"""From an image file to the planes that are segmented: axes, selection, statistics."""
