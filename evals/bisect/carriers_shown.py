"""What was found of the layers and experts, for people and for programs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mxmoe.conformance.escape import printable
from mxmoe.conformance.rundir import json_number
from mxmoe.evals.bisect.carriers import Carriers
from mxmoe.evals.bisect.carriers import Options
from mxmoe.evals.bisect.guilty_places import LEAST_RATIO
from mxmoe.evals.bisect.teacher_forced import Distance
from mxmoe.evals.inside.swap import Place


def lines(found: Carriers, options: Options) -> list[str]:
    """What a person reads."""
    name = options.candidate
    if options.fault is not None:
        name = f"{name} with fault {options.fault}"
    name = printable(name)
    said = [
        f"divergence from the reference on {found.tokens} tokens of right answers: "
        f"{found.bad.divergence:.3g} nats a token, honest rounding "
        f"{found.good.divergence:.3g}, half way {found.half_way:.3g}",
        f"loss on them: {found.bad.loss:.4g} nats a token, honest rounding "
        f"{found.good.loss:.4g}",
    ]
    if found.unvisited:
        said.append(f"not visited by any token: {found.unvisited} experts")
    count = f"{found.evaluations} evaluations"
    if found.restored is None or found.alone is None:
        locate = shlex.join(["mxmoe", "locate", "-c", options.candidate])
        return [
            *said,
            f"a fault below {LEAST_RATIO:g} times honest rounding is not seen here: "
            "what rounding does to the model's distributions covers it; "
            f"{printable(locate)} judges each layer by its bound, down to one row",
            f"verdict: INCONCLUSIVE {name}: "
            f"{found.bad.divergence / found.good.divergence:.3g} times honest "
            f"rounding, less than {LEAST_RATIO:g}: nothing to find this way; {count}",
        ]
    where = _places(found.places) if options.single else _layers(found.layers)
    return [
        *said,
        f"with the reference there: {found.restored.divergence:.3g} nats a token; "
        f"with the candidate only there: {found.alone.divergence:.3g}",
        f"verdict: FOUND {name}: {where}; {_proved(found.passes)}; {count}",
    ]


def _proved(passes: int) -> str:
    """Passes do not look at each other's places again."""
    if passes == 1:
        return "none can be left out"
    return f"found in {passes} passes, of each of which none can be left out"


def as_facts(found: Carriers) -> dict[str, Any]:
    """For JSON."""
    facts = asdict(found)
    for name in ("good", "bad", "restored", "alone"):
        facts[name] = _distance(getattr(found, name))
    return facts | {"half_way": json_number(found.half_way)}


def _distance(distance: Distance | None) -> dict[str, Any] | None:
    if distance is None:
        return None
    return {name: json_number(value) for name, value in asdict(distance).items()}


def _layers(layers: Sequence[int]) -> str:
    word = "layer" if len(layers) == 1 else "layers"
    return f"{word} {', '.join(map(str, layers))}"


def _places(places: Sequence[Place]) -> str:
    by_layer: dict[int, list[int]] = {}
    for layer, expert in places:
        by_layer.setdefault(layer, []).append(expert)
    return "; ".join(
        f"layer {layer} expert{'s' if len(experts) > 1 else ''} "
        f"{', '.join(map(str, experts))}"
        for layer, experts in by_layer.items()
    )
