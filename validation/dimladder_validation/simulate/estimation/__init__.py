"""Estimation at finite d: minimisers with a certificate, Gibbs samples, message passing with the target's law."""
