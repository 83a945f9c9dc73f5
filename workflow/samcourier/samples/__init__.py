"""From a sample sheet, a folder or a plate to the images of a dataset."""
