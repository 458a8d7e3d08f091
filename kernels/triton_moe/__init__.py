"""Our own Triton path: bfloat16 activations, MXFP4 weights, router to output."""
