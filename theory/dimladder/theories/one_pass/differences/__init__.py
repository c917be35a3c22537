"""The flow in differences from the target, where overlaps would lose e_g to rounding."""
