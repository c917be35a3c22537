"""The flow of every update rule and data law: overlaps resolved by block, averages by source, one derivation.

`notation` and `derivation` hold the equations, `code` prints them as a module, `explanation` as LaTeX; `flow` is one
problem's numbers. Plain problems (isotropic, centred, one tracked vector a unit) stay with the narrower `..flow`.
"""
