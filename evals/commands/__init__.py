"""Commands that need more than the suite: benchmarks of our own kernels."""
