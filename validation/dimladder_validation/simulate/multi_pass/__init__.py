"""Gradient descent on one drawn data set: its exact law in vectors over the samples, or drawn inputs on any device."""
