"""Candidates in a process of their own: a crash or a hang there is a verdict here.

The border is the judgement of one case. Hypothesis draws and shrinks cases in the
process that reports; the child is told a check and a case in words, imports the
candidate itself, builds the tensors, judges, and answers with what it concluded. So
tensors and prepared objects never cross, and checks of identity and state (second
call, poisoned memory, freed weights) run where these are real. A check that calls the
candidate outside a case runs in the child as a whole.
"""
