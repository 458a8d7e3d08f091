"""Our own Triton path: bfloat16 activations, MXFP4 weights, router to output.

`prepare` turns a layer's checkpoint bytes into tensors of layout ``triton_moe.v1``,
once, when a model is loaded: `geometry` has their sizes, `tiles` their order,
`spread_codes` the bits of a word.
"""
