"""`mxmoe verify`: a whole checkpoint, layer by layer and rank by rank."""
