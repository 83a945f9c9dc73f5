"""What client and service share: wire format, axes, errors, parameters, validation."""
