"""Which row, slot or expert is taken, left out or put in another place."""
