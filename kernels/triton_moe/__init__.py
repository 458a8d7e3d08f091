"""Our own Triton path: bfloat16 activations, MXFP4 weights, router to output.

`prepare` turns a layer's checkpoint bytes into tensors of layout ``triton_moe.v1``,
once, when a model is loaded: `geometry` has their sizes, `tiles` their order,
`spread_codes` the bits of a word.

`moe` is the layer, five to seven launches: `router_logits`, `route` and `dispatch` (of
few tokens both in `route_and_dispatch`), `gate_up`, `down`, `combine`. Both GEMMs are
the loop of `weight_gemm` over what `decode` makes of the bytes; `tactics` has their
tile sizes. `ops` are the operators of torch, `candidate` is what the suite judges.
"""
