"""A gpt-oss model of transformers whose experts are a candidate.

`load` reads a checkpoint folder, `experts` puts the candidate in, `swap` lets it serve
chosen experts and the reference the others, `proof` counts its calls, `generate` writes
answers, `score` counts the correct ones.
"""
