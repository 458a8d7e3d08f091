"""`grade_school`: word problems in GSM8K's form, made from templates.

A small model of the gpt-oss architecture can learn them, so that the whole path from
checkpoint to score runs on any machine. `generate` makes problems, `frozen` holds the
1319 of the test, `answers` scores what a model wrote.
"""
