"""What a search has cost so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Evaluations:
    """model_passes : of the whole model. layers : calls of the candidate's forward on
    the whole input of one layer. traces : the same of its trace. masked : calls with
    one slot or one expert alone. sizes : of its forward on other numbers of tokens.
    fused : of its forward_fused."""

    model_passes: int = 0
    layers: int = 0
    traces: int = 0
    masked: int = 0
    sizes: int = 0
    fused: int = 0

    def __str__(self) -> str:
        words = (
            (self.model_passes, "pass", "passes", "of the model"),
            (self.layers, "layer", "layers", "on the reference's inputs"),
            (self.traces, "trace", "traces", ""),
            (self.masked, "call", "calls", "with one slot or expert alone"),
            (self.sizes, "call", "calls", "of other numbers of tokens"),
            (self.fused, "call", "calls", "of forward_fused"),
        )
        return ", ".join(
            f"{n} {one if n == 1 else many} {rest}".strip()
            for n, one, many, rest in words
            if n
        )
