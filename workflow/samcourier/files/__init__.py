"""Files that are whole or absent, and the records in them."""
