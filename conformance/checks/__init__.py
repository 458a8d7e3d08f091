"""The checks themselves, one file a level; pytest collects them here."""
