"""The service: its methods, its queue, its access rules, and how to run it."""
