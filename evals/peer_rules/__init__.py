"""The acceptance rules of other projects' MXFP4 MoE tests, on our planted faults."""
