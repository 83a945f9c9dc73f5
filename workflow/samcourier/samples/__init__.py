"""Find the images of a dataset in a sample sheet, a folder or a plate."""
