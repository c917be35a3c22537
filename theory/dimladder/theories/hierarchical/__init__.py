"""Hierarchical Gaussian targets: the learning staircase, the first layer in time, layer-wise learning with constants."""
