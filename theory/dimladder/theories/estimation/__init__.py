"""One static state evolution for minimisers and posteriors of generalised linear estimation at samples = alpha d.

Three blocks vary alone: the *channel* (loss and label law), the *spectrum* (inputs, power, layers of random features)
and the *prior* (penalty, or prior of the target). Read `equations.py` for the fixed point, then the block you change.
"""
