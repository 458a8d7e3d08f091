"""The B200 path: trtllm-gen weights, their fast preparation, and who reads them."""
