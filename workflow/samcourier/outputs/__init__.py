"""What is made of a mask beside it: tables, polygons, previews, TIFF, labels in the input."""
