"""Candidates: what the suite judges.

Nothing here imports more of `mxmoe.reference` than its types; each candidate is
written independently of the reference.

=============  =========================================================
`torch_dense`  plain vectorised PyTorch, every expert for every token
`hf_experts`   transformers' own experts and its own MXFP4 conversion
`triton_moe`   the optimised path: router to output in Triton, for GPUs
`trtllm_gen`   preparation for a B200, and an emulation that reads its bytes
=============  =========================================================
"""
