"""What a check is repeated over besides candidates: layers, shards, tensors, routes.

``@for_each(function)`` on a test gives it the fixture `place` and one test id for
each place that ``function(settings, subject)`` returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import TypeVar

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.strategies import GPT_OSS_SHAPE
from mxmoe.conformance.judging.numbers import ROUTES
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.formats import SCALE_RULES
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# Up to this size every layer and every shard is judged; a larger checkpoint is
# sampled (first, middle, last layer, the whole layer only) unless --layers says more.
_EVERYTHING_UP_TO_BYTES = 2**28

_TestFunction = TypeVar("_TestFunction", bound=Callable[..., None])


@dataclass(frozen=True)
class Place:
    """One repetition: its part of the test id, and what the test gets."""

    id: str
    value: Any


Places = Callable[[Settings, Subject], Sequence[Place]]


def for_each(places: Places) -> Callable[[_TestFunction], _TestFunction]:
    """Repeat the decorated test over `places`."""

    def mark(function: _TestFunction) -> _TestFunction:
        function.places = places  # type: ignore[attr-defined]
        return function

    return mark


def choose_layers(checkpoint: Checkpoint, request: str | None) -> tuple[int, ...]:
    """``all``, ``0,5,35``, or None for the default; `BadInput` for anything else."""
    count = checkpoint.layers
    if request is None:
        if count * checkpoint.layer_bytes() <= _EVERYTHING_UP_TO_BYTES:
            return tuple(range(count))
        return tuple(sorted({0, count // 2, count - 1}))
    if request == "all":
        return tuple(range(count))
    if not re.fullmatch(r"\d+(,\d+)*", request):
        raise BadInput(
            f"--layers: expected 'all' or numbers like 0,5, found {request!r}"
        )
    layers = tuple(dict.fromkeys(int(word) for word in request.split(",")))
    for layer in layers:
        if layer >= count:
            raise BadInput(f"--layers: expected 0 to {count - 1}, found {layer}")
    return layers


def layers(settings: Settings, _subject: Subject) -> list[Place]:
    """``default-layer0``, ..."""
    return [Place(_layer_id(settings, layer), layer) for layer in settings.layers]


def layer_routes(settings: Settings, subject: Subject) -> list[Place]:
    """``default-layer0-yours-ours``: the cells of the attribution matrix that exist."""
    routes: Sequence[str] = ROUTES
    if not subject.has("prepare"):
        routes = ROUTES[2:]
    elif subject.layout is None:
        routes = ROUTES[:1]
    elif not subject.has("forward"):
        routes = ROUTES[1:2]
    return [
        Place(f"{_layer_id(settings, layer)}-{route}", (layer, route))
        for layer in settings.layers
        for route in routes
    ]


def layer_tensors(settings: Settings, subject: Subject) -> list[Place]:
    """``default-layer0-tp2r1-gate_up_bias``: layers, shards and prepared tensors."""
    cases = {
        f"{_layer_id(settings, layer)}-{shard.label()}": Case(
            layer=layer, shard=shard, tokens=0
        )
        for layer in settings.layers
        for shard in _shards(settings, subject)
    }
    return _tensors(subject, settings.checkpoint.config, cases)


def gpt_oss_tensors(_settings: Settings, subject: Subject) -> list[Place]:
    """``gpt_oss-tp8r7-fc1_bias``: the real matrices, every rank of tp 1, 2, 4, 8.

    gpt-oss-20b and -120b differ in the number of experts only; two are judged.
    """
    refuses = subject.capabilities.refuses_shard
    shards = [Shard(tp_size=n, tp_rank=r) for n in (1, 2, 4, 8) for r in range(n)]
    cases = {
        f"gpt_oss-{shard.label()}": Case(
            config=GPT_OSS_SHAPE, shard=subject.capabilities.align(shard), tokens=0
        )
        for shard in shards
        if refuses(shard, GPT_OSS_SHAPE) is None
    }
    return _tensors(subject, GPT_OSS_SHAPE, cases)


def _tensors(
    subject: Subject, config: MoEConfig, cases: Mapping[str, Case]
) -> list[Place]:
    if subject.layout is None:
        return [Place("own_layout", None)]
    return [
        Place(f"{words}-{name}", (case, name))
        for words, case in cases.items()
        for name in subject.layout.names(config)
    ]


def layer_shards(settings: Settings, subject: Subject) -> list[Place]:
    """``default-layer0-tp2r1``"""
    return [
        Place(f"{_layer_id(settings, layer)}-{shard.label()}", (layer, shard))
        for layer in settings.layers
        for shard in _shards(settings, subject)
    ]


def scale_rules(_settings: Settings, _subject: Subject) -> list[Place]:
    """``floor``, ``even``, ``ceil``"""
    return [Place(rule, rule) for rule in SCALE_RULES]


def _layer_id(settings: Settings, layer: int) -> str:
    name = settings.checkpoint_folder.name if settings.checkpoint_given else "default"
    return f"{re.sub(r'[^A-Za-z0-9_.]', '_', name)}-layer{layer}"


def _shards(settings: Settings, subject: Subject) -> list[Shard]:
    config = settings.checkpoint.config
    align = subject.capabilities.align
    if settings.checkpoint.layer_bytes() > _EVERYTHING_UP_TO_BYTES:
        return [align(WHOLE)]
    shards = [WHOLE]
    for n in (2, 4, 8):
        shards += [Shard(tp_size=n, tp_rank=r) for r in range(n)]
        if config.experts % n == 0:
            shards += [Shard(ep_size=n, ep_rank=r) for r in range(n)]
    refuses = subject.capabilities.refuses_shard
    return [align(shard) for shard in shards if refuses(shard, config) is None]
