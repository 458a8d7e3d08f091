"""Which stage is the first wrong one, and what it does."""
