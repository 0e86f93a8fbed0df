"""Fits the few named constants to measurements of either origin, and earns their intervals."""
