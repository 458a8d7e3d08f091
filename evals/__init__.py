"""The accuracy gate and what follows a red night: empty so far."""
