"""Cut large images into tiles, and stitch the labels of the tiles."""
