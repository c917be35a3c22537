"""Compiled adaptive integrators."""
