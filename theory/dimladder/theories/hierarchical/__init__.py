"""Hierarchical Gaussian targets: the learning staircase, the first layer in time, and layer-wise learning with constants."""
