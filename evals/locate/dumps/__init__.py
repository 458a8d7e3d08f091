"""Two folders of stages that another engine wrote: which stage differs first?

The format is in docs/locate.md. `folder` reads one, `aligned` brings rows into the
order of the reference, `first_difference` compares a pair, `by_checkpoint` judges one
by derived bounds, `run` says what was found.
"""
