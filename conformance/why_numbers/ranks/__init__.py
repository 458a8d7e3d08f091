"""Several ranks: whose part is wrong, and whose it is."""
