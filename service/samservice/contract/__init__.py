"""The contract of client and service: wire format, axes, errors, parameters, validation."""
