"""The executable specification of an MXFP4 mixture-of-experts layer, in plain PyTorch.

Slow, obvious, and independent of everything that it judges: nothing here
imports `mxmoe.kernels`, `mxmoe.conformance` or `mxmoe.evals`.

================  ============================================================
`types`           the contract: configuration, weights, shard, routing, ...
`formats`         E2M1, E8M0, blocks of 32: decode twice, encode under a rule
`checkpoint`      reading and writing gpt-oss folders, one layer at a time
`routing`         top-k, then softmax over the k
`activation`      clamped SwiGLU and plain SiLU
`moe`             the layer, in float64 or under a named arithmetic class
`sharding`        one rank's part of a layer
`layouts`         prepared tensors as index maps
================  ============================================================
"""
