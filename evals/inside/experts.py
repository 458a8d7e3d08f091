"""The candidate in the place of transformers' experts, through transformers' own hook.

`GptOssExperts` asks `ALL_EXPERTS_FUNCTIONS` for the function that its configuration
names (transformers 5, `integrations/moe.py`). Ours hands the call to the layer's
`CandidateExperts`, which counts it. The experts' parameters are deleted from the model,
or were never read: a fallback to transformers' own function finds none, and raises.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import partial
from typing import Any
from typing import Protocol

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.proof import Passes
from mxmoe.evals.inside.reference import small_enough
from mxmoe.evals.inside.shelf import Shelf
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing

IMPLEMENTATION = "mxmoe_candidate"
# Where a `GptOssExperts` keeps what serves it.
_ATTRIBUTE = "mxmoe_candidate"


class Served(Protocol):
    """What can stand in the place of transformers' experts."""

    def forward(
        self, hidden_states: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """[t, h], [t, k], [t, k] -> [t, h] in the dtype of `hidden_states`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedLayer:
    """weights : what `prepare` returned. given : what `forward` is given.

    That is what the candidate's `load` makes of its weights, if it has one and there is
    room, as an emulation that decodes in every call is too slow for a whole model.
    """

    weights: PreparedWeights
    given: Any


@dataclass(kw_only=True, eq=False)
class CandidateExperts:
    """One layer's experts: the candidate, its prepared weights, what was asked of it.

    layer : the weights, prepared now or before; raises `Failure` as `prepare` does.
    calls, tokens : calls of `forward` and rows in them, so far. finite : whether every
    finite row so far gave a finite one, a bool on the layer's device.
    """

    subject: Subject
    layer: Callable[[], PreparedLayer]
    finite: torch.Tensor
    calls: int = 0
    tokens: int = 0

    @property
    def weights(self) -> PreparedWeights:
        """What `prepare` returned."""
        return self.layer().weights

    @property
    def prepared(self) -> Any:
        """What `forward` is given."""
        return self.layer().given

    def forward(
        self, hidden_states: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """[t, h], [t, k], [t, k] -> [t, h] in the dtype of `hidden_states`.

        The candidate gets the hidden states in the dtype that its arithmetic class
        has them in, ids as int32, and weights as float32 in the values of the dtype
        that it declares for them.
        """
        self.calls += 1
        self.tokens += len(hidden_states)
        declared = self.subject.capabilities.routing_dtype()
        out = self.subject.forward(
            self.prepared,
            hidden_states.to(self.subject.arithmetic.output),
            Routing(ids.int(), weights.to(declared).float()),
        )
        given = hidden_states.isfinite().all(dim=1)
        self.finite &= (out.isfinite().all(dim=1) | ~given).all()
        return out.to(hidden_states.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inside:
    """A model with a candidate in every layer, and the count of its passes."""

    loaded: Loaded
    subject: Subject
    experts: tuple[CandidateExperts, ...]
    passes: Passes = field(repr=False)

    def first_nonfinite_layer(self) -> int | None:
        """The first layer whose candidate made NaN or infinity of finite rows."""
        for number, experts in enumerate(self.experts):
            if not experts.finite:
                return number
        return None

    def with_layer(self, failure: Failure) -> Failure:
        """`failure`, and where it is NaN or infinity the layer that it came from."""
        layer = self.first_nonfinite_layer()
        if failure.verdict is not Verdict.NONFINITE or layer is None:
            return failure
        return Failure(
            failure.verdict,
            f"{failure.text}; the candidate returned NaN or infinity in layer {layer}",
        )


def put_inside(loaded: Loaded, subject: Subject, *, room: float = math.inf) -> Inside:
    """Prepare the checkpoint's bytes layer by layer and free transformers' weights.

    `loaded` is changed. room : bytes of prepared layers that are kept; the others are
    prepared again when they are called. Raises `BadInput` where the candidate cannot
    run here, or not this shape, and where accelerate has put a layer off its device;
    `Failure` where its `prepare` fails.
    """
    reason = subject.unavailable() or subject.capabilities.refuses_shape(
        loaded.checkpoint.config
    )
    if reason is not None:
        raise BadInput(f"{subject.spec}: expected it to run this model, found {reason}")
    shelf = Shelf(room=room)
    experts = tuple(
        _replace(loaded, subject, number, shelf) for number in range(len(loaded.layers))
    )
    loaded.model.set_experts_implementation(IMPLEMENTATION)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    passes = Passes.of(loaded.model)
    return Inside(loaded=loaded, subject=subject, experts=experts, passes=passes)


def _replace(
    loaded: Loaded, subject: Subject, number: int, shelf: Shelf
) -> CandidateExperts:
    mlp = loaded.layers[number].mlp
    device = next(mlp.experts.parameters(), mlp.router.weight).device
    if device.type == "meta":
        raise BadInput(
            f"{loaded.checkpoint.folder}: expected room for all layers on the devices, "
            f"found none for layer {number}"
        )
    for name in [name for name, _ in mlp.experts.named_parameters()]:
        delattr(mlp.experts, name)
    here = replace(subject, device_request=str(device))
    loads = here.has("load") and (
        math.isinf(shelf.room)
        or small_enough(loaded.checkpoint.config, len(loaded.layers))
    )
    make = partial(_prepared, loaded.checkpoint, here, number, loads=loads)
    layer = partial(shelf.get, number, make)
    layer()  # whatever is wrong with it is said before the model runs
    experts = CandidateExperts(
        subject=here,
        layer=layer,
        finite=torch.ones((), dtype=torch.bool, device=device),
    )
    install(loaded, number, experts)
    return experts


def _prepared(
    checkpoint: Checkpoint, subject: Subject, number: int, *, loads: bool
) -> PreparedLayer:
    config = checkpoint.config
    shard = subject.capabilities.align(WHOLE)
    try:
        weights = subject.prepare(checkpoint.layer(number), config, shard)
        given = subject.call("load", weights) if loads else weights
    except Failure as failure:
        text = f"layer {number}: {failure.text}"
        raise Failure(failure.verdict, text) from failure
    return PreparedLayer(weights=weights, given=given)


def install(loaded: Loaded, number: int, experts: Served) -> None:
    """Let `experts` serve layer `number` of a model that `put_inside` has changed."""
    setattr(loaded.layers[number].mlp.experts, _ATTRIBUTE, experts)


def _experts_function(
    module: Any, hidden_states: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    return getattr(module, _ATTRIBUTE).forward(hidden_states, ids, weights)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _experts_function)
