"""One page, and three files for programs, that say what runs have found."""
