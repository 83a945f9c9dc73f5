"""The service itself: its methods, its queue, who may call, and how it is run."""
