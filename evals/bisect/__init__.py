"""Which commit, layer or expert made a candidate wrong.

A *step* judges one commit: `request` says how, `one_run` does it in a forked process,
`judged` reads the run directory, `signature` tells one fault from another, `repeated`
asks flaky commits again. `drive` lets git choose the commits. `minimise` finds the
smallest set of layers or experts, with `swapped` as its predicate.
"""
