"""GSM8K, from files or the hub, with the prompts and filters of lm-eval.

`data` reads and hashes the questions, `with_lm_eval` has lm-eval make prompts and
extract answers, `task` is what the gate asks. No question is part of this package.
"""
