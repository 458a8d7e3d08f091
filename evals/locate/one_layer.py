"""A fault in one layer of a model: the candidate there, and the right one elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.subject import Subject
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import PreparedWeights

_USED = ("prepare", "load", "forward", "trace")


def only_in_layer(
    faulty: Subject, right: Subject, checkpoint: Checkpoint, layer: int
) -> Subject:
    """`faulty` where it is given layer `layer` of the checkpoint, else `right`.

    A layer is known by its router's weights, as `prepare` is not told its number.
    Raises `BadInput` for a layer that is not there.
    """
    if not 0 <= layer < checkpoint.layers:
        raise BadInput(f"layer: expected 0 to {checkpoint.layers - 1}, found {layer}")
    chosen = _Chosen(
        faulty=faulty.candidate,
        right=right.candidate,
        router=checkpoint.layer(layer).router_weight,
    )
    members = {
        name: getattr(chosen, name)
        if callable(getattr(right.candidate, name, None))
        else None
        for name in _USED
    }
    return subject_of(changed(right.candidate, **members), right.spec)


@dataclass(frozen=True, eq=False)
class _Prepared(Mapping[str, Any]):
    """What a `prepare` or a `load` returned, and whose it is."""

    made: Any
    by: Any

    def __getitem__(self, name: str) -> Any:
        return self.made[name]

    def __iter__(self) -> Any:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chosen:
    """Members of a candidate that go to `faulty` or to `right`."""

    faulty: Any
    right: Any
    router: torch.Tensor

    def prepare(self, weights: ExpertWeights, *rest: Any) -> _Prepared:
        found = weights.router_weight.to(self.router)
        here = found.shape == self.router.shape and torch.equal(found, self.router)
        by = self.faulty if here else self.right
        return _Prepared(by.prepare(weights, *rest), by)

    def load(self, prepared: PreparedWeights) -> _Prepared:
        by = _whose(prepared)
        return _Prepared(by.load(prepared) if hasattr(by, "load") else prepared, by)

    def forward(self, prepared: Any, *rest: Any, tactic: object = None) -> Any:
        options = {} if tactic is None else {"tactic": tactic}
        given = prepared.made if isinstance(prepared, _Prepared) else prepared
        return _whose(prepared).forward(given, *rest, **options)

    def trace(self, prepared: PreparedWeights, *rest: Any) -> Any:
        return _whose(prepared).trace(prepared, *rest)


def _whose(prepared: Any) -> Any:
    held = prepared if isinstance(prepared, _Prepared) else prepared.tensors
    return held.by
