"""Two outputs that should agree: laws, later calls, neighbours."""
