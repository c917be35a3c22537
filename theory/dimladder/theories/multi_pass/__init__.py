"""Gradient descent on one data set."""

from .theory import MultiPassTheory

THEORY = MultiPassTheory()
