"""Hierarchical Gaussian targets: the staircase, the first layer in time, layer-wise learning with constants."""
