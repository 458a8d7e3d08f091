"""Why numbers are wrong: the fault under which the found output is right."""
