"""Cases: what is drawn, its tensors, and how a failing one shrinks."""
