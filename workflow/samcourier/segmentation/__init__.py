"""The way of one image: prepared, compared with what exists, segmented, finished, recorded."""
