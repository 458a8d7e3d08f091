"""The suite as a pytest session: options, collection, verdict lines, summary."""
