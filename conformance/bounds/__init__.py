"""Bounds: how far an honest candidate may be from the truth."""
