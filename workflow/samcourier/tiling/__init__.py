"""Large images: cut into tiles, and the labels of the tiles put together."""
