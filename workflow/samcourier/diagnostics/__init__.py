"""Checks and forecasts before a run: the service, the space needed and the duration."""
