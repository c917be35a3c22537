"""Truncation geometry of ReLU layers: explicit minimisers, truncation states, gradient flows."""
