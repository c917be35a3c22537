"""Clustered data and the networks written down for them: read by the theory of truncation and by its experiment."""
