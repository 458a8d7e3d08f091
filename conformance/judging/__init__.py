"""Judging: one file for each kind of verdict, and the fixture that all checks use."""
