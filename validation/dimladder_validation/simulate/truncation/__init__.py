"""The networks and flows of the truncation theories, measured point by point."""
