"""One-pass SGD of two-layer students at finite d: explicit weights, or the exact chain of their overlaps."""
