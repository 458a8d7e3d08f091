"""A layer that does one thing otherwise: a step, a tensor, an address."""
