"""Compares the transports on the user's own network."""
