"""Write files atomically, and read and write records."""
