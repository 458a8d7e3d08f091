"""Training of the small gpt-oss model that answers `grade_school`.

The layer's own forward, written for speed, equals transformers' (a test holds them
together); expert weights are MXFP4 in every forward pass.
"""
