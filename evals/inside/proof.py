"""Did the candidate run? Its calls in each layer against the passes of the model.

A model that falls back to other experts scores well without the kernel under test; so
a score without this proof is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any
from typing import Protocol


class Counted(Protocol):
    """What counts the calls of one layer."""

    calls: int
    tokens: int


@dataclass(eq=False)
class Passes:
    """Forward passes of a model and the tokens in them, counted by a hook on it."""

    count: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, model: Any) -> Passes:
        """Count from now on the passes through the decoder of `model`."""
        passes = cls()

        def count(_module: Any, inputs: Any, options: Any) -> None:
            ids = options["input_ids"] if "input_ids" in options else inputs[0]
            passes.count += 1
            passes.tokens += ids.numel()

        model.model.register_forward_pre_hook(count, with_kwargs=True)
        return passes


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Passes and tokens of the model; calls and tokens that each layer was given."""

    passes: int
    tokens: int
    layer_calls: tuple[int, ...]
    layer_tokens: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether every layer was called once in every pass, with all its tokens."""
        return self.objection() is None

    def objection(self) -> str | None:
        """One sentence why it does not hold, or None."""
        if self.passes == 0:
            return "the model made no forward pass"
        for layer, found in enumerate(self.layer_calls):
            if found != self.passes:
                return (
                    f"layer {layer}: expected {self.passes} calls of the candidate, "
                    f"one for each forward pass, found {found}"
                )
        for layer, found in enumerate(self.layer_tokens):
            if found != self.tokens:
                return (
                    f"layer {layer}: expected {self.tokens} tokens given to the "
                    f"candidate, all of the model's, found {found}"
                )
        return None

    def as_json(self) -> dict[str, Any]:
        """For a record."""
        return {**asdict(self), "holds": self.holds}


def proof(passes: Passes, layers: Sequence[Counted]) -> Proof:
    """What was counted until now."""
    return Proof(
        passes=passes.count,
        tokens=passes.tokens,
        layer_calls=tuple(layer.calls for layer in layers),
        layer_tokens=tuple(layer.tokens for layer in layers),
    )
