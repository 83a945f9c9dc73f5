"""A WebRTC endpoint that carries large calls and the caller's verified identity."""
