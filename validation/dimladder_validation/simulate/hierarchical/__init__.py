"""Hierarchical Gaussian targets at finite d, and the learners that climb down them: spectral, layer-wise, trained."""
