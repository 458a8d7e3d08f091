"""The accuracy gate: a task score, decided soundly and early."""
