"""Write further outputs of a mask: tables, polygons, previews, TIFF, labels in the input."""
