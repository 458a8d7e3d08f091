"""A candidate that serves chosen experts of chosen layers; the reference does the rest.

Both are in the model at once, so that a choice costs nothing:

    swap = put_swappable(loaded, subject)
    swap.serve(swap.everything)                   the candidate everywhere
    swap.serve([(2, expert) for expert in (0, 3)])  in two experts of layer 2
    swap.serve(())                                nowhere

A layer that both serve is run twice, each time with id -1 for the other's experts,
which by contract adds exactly nothing; the two results are added in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from functools import partial

import torch

from mxmoe.conformance.subject import Subject
from mxmoe.evals.inside.experts import CandidateExperts
from mxmoe.evals.inside.experts import Inside
from mxmoe.evals.inside.experts import install
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.reference import ReferenceExperts
from mxmoe.evals.inside.reference import small_enough
from mxmoe.evals.inside.shelf import Shelf
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ExpertWeights

Place = tuple[int, int]
"""(layer, global expert id)."""

Heard = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


@dataclass(kw_only=True, eq=False)
class SwapExperts:
    """One layer: `served` are the experts of the candidate.

    heard : called after each call with its hidden states [t, h], ids [t, k], weights
    [t, k] and result [t, h].
    """

    candidate: CandidateExperts
    reference: ReferenceExperts
    served: frozenset[int] = frozenset()
    heard: Heard | None = field(default=None, repr=False)

    def forward(
        self, hidden_states: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """[t, h], [t, k], [t, k] -> [t, h] in the dtype of `hidden_states`."""
        out = self._forward(hidden_states, ids, weights)
        if self.heard is not None:
            self.heard(hidden_states, ids, weights, out)
        return out

    def _forward(
        self, hidden_states: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        ours = torch.tensor(sorted(self.served), dtype=ids.dtype, device=ids.device)
        mine = (ids[..., None] == ours).any(dim=-1)
        if mine.all():
            return self.candidate.forward(hidden_states, ids, weights)
        out = self.reference.forward(hidden_states, ids.masked_fill(mine, -1), weights)
        if mine.any():
            theirs = ids.masked_fill(~mine, -1)
            out = out + self.candidate.forward(hidden_states, theirs, weights).float()
        return out.to(hidden_states.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Swap:
    """A model in which every expert of every layer can be swapped.

    inside : for `score` and `answers`; its `passes` count as ever, its `experts` are
    called for the layers that the candidate serves only.
    """

    inside: Inside
    layers: tuple[SwapExperts, ...]

    @property
    def everything(self) -> frozenset[Place]:
        """Every expert of every layer."""
        count = self.inside.loaded.checkpoint.config.experts
        return frozenset(
            (layer, e) for layer in range(len(self.layers)) for e in range(count)
        )

    def serve(self, places: Iterable[Place]) -> None:
        """From now on the candidate serves `places`, and the reference all others.

        Raises `BadInput` for a place that the model does not have.
        """
        chosen = frozenset(places)
        for place in chosen - self.everything:
            raise BadInput(
                f"place: expected (layer, expert) of {len(self.layers)} layers and "
                f"{self.inside.loaded.checkpoint.config.experts} experts, found {place}"
            )
        for number, layer in enumerate(self.layers):
            layer.served = frozenset(e for at, e in chosen if at == number)


def put_swappable(loaded: Loaded, subject: Subject, *, room: float = math.inf) -> Swap:
    """As `put_inside`, with the reference beside it; the candidate serves everything.

    Each layer is prepared by the candidate once, if all of them fit into `room` bytes;
    as many bytes of the reference's weights are held, mapped or on the device. Raises
    what `put_inside` raises.
    """
    inside = put_inside(loaded, subject, room=room)
    checkpoint = loaded.checkpoint
    keep = small_enough(checkpoint.config, len(loaded.layers))
    shelf = Shelf(room=room)
    layers = []
    for number, candidate in enumerate(inside.experts):
        make = partial(_read, checkpoint, number, candidate.finite.device)
        reference = ReferenceExperts(
            read=partial(shelf.get, number, make),
            config=checkpoint.config,
            keep=keep,
        )
        layer = SwapExperts(candidate=candidate, reference=reference)
        install(loaded, number, layer)
        layers.append(layer)
    swap = Swap(inside=inside, layers=tuple(layers))
    swap.serve(swap.everything)
    return swap


def _read(checkpoint: Checkpoint, number: int, device: torch.device) -> ExpertWeights:
    return checkpoint.layer(number).to(device)
