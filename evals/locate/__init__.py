"""From "it is wrong" to "here": layer, stage, expert, (token, slot) row, column.

`recorded_inputs` runs the model with the reference inside and keeps what enters each
layer; `layer` judges the candidate on it, layer by layer; `stage_search` finds the
first stage and row, by the trace (`traced`) or slot by slot (`slot_by_slot`); `causes`
says why; `whole_model` tries the places in the model itself; `run` puts it together.
`dumps` does the same for two folders of stages that another engine wrote.
"""
