"""The settings of a run as one frozen value, and the files that store them."""
