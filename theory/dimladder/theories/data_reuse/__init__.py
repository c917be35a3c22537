"""Samples used more than once: what repeating a sample teaches that a fresh one does not."""
