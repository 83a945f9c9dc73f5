"""Check a run before it begins: gather facts concurrently, then assess them as lines."""
