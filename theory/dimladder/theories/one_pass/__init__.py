"""One-pass SGD of two-layer networks: the theory ``one-pass``."""
