"""The tables of a dataset: all objects, and a summary of each image and each group of images."""
