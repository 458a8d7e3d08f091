"""Bundles: a failure as data, and how it is repeated."""
