"""The statistics of the accuracy gate, without a model.

`rule` says how many correct answers pass, `order` in which order they count,
`evidence` when so many are enough, `risk` how often stopping early misleads, exactly.
`paired` compares two runs question by question, `cusum` a row of nights with a
baseline, `floor` tells broken numerics from a regression.
"""
