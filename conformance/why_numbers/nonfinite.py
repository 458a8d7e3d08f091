"""Why an output is not finite: which tokens are not, and what they have in common.

What makes NaN or Inf poisons whole tokens. So the set of tokens tells the cause: it is
compared with the tokens that visit an expert, that have an empty slot, whose numbers
leave float16, or whose exp leaves float32. A trace tells the stage and the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Mapping

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.designed import tokens_of_gaps
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.conformance.why_numbers.slots.slot_sources import sets_of_tokens
from mxmoe.reference.activation import split_halves
from mxmoe.reference.formats import decode
from mxmoe.reference.types import BLOCK

Tensor = torch.Tensor
_FLOAT16 = 65504.0
# exp overflows float32 beyond this.
_EXP = math.log(torch.finfo(torch.float32).max)
_SHOWN = 4
# Fewer tokens are told apart by anything.
_FEWEST = 3


def explain_nonfinite(found: Tensor, judged: Judged, s: Situation) -> list[str]:
    """Sentences that are true of exactly the elements that are not finite."""
    wrong = ~found.isfinite()
    if not wrong.any():
        return []
    rows, columns = wrong.any(dim=1), wrong.any(dim=0)
    names = [words for words, tokens in _sets(judged, s) if torch.equal(tokens, rows)]
    if rows.all() and len(names) > 1:
        # A set that holds every token tells nothing if another does so too.
        names = [n for n in names if not n.startswith("every token")] or names
    owned = s.shard.expert_range(s.config)
    ids = s.routing.ids
    served = (ids >= owned.start) & (ids < owned.stop)
    names = names or [
        f"not finite: exactly the tokens in {words}"
        for words in sets_of_tokens(ids, rows, served)
    ]
    names = names or list(_thresholds(rows, judged, s))
    if not names:
        names = [f"not finite: {ranges('token', rows)}"]
    if not columns.all():
        names = [f"{name}; {ranges('column', columns)} only" for name in names]
    return names[:_SHOWN]


def _sets(judged: Judged, s: Situation) -> Iterator[tuple[str, Tensor]]:
    """(a sentence, the tokens [t] that it makes not finite)."""
    ids = s.routing.ids
    z, a, y = (judged.truth[n] for n in ("gate_up", "activation", "down"))
    yield (
        "not finite: exactly the tokens with a slot without an expert (-1)",
        (ids < 0).any(dim=1),
    )
    if s.strided:
        for what, like in (
            ("hidden states", s.hidden_states),
            ("routing weights", s.routing.weights),
        ):
            words = f"not finite: {what} read as if no gaps lay between rows"
            yield f"{words} (their row stride ignored)", tokens_of_gaps(*like.shape)
    yield from _leaving_float16(z, a, y, s)
    owned = s.shard.expert_range(s.config)
    other = ((ids >= 0) & ~torch.isin(ids, torch.tensor(list(owned)))).any(dim=1)
    yield "not finite: exactly the tokens with an expert of another rank", other
    yield from _exponentials(z, s)
    for e in ids.unique().tolist():
        if e in owned:
            words = f"not finite: exactly the tokens that visit expert {e}"
            yield words + _largest(s, e - owned.start), (ids == e).any(dim=1)
    repeated = (s.routing.weights == 0).any(dim=1)
    yield "not finite: exactly the tokens with a routing weight of 0", repeated
    silent = [e for e in owned if not (ids == e).any()]
    if silent:
        words = (
            f"every token: an expert that none visits ({silent[0]}) is weighed by 0?"
        )
        yield words, torch.ones(len(ids), dtype=torch.bool)


def _leaving_float16(
    z: Tensor, a: Tensor, y: Tensor, s: Situation
) -> Iterator[tuple[str, Tensor]]:
    sums = (s.routing.weights.double()[..., None] * y).sum(dim=1)
    gate, up = split_halves(z)
    yield from _alike(
        "not finite: exactly the tokens where {} beyond float16",
        {
            "hidden states are": s.hidden_states.double().abs() > _FLOAT16,
            "results of GEMM1 are": z.abs() > _FLOAT16,
            # What saturates is clamped later: only -inf times a sigmoid of 0 is NaN.
            "gates below 0 are": gate < -_FLOAT16,
            "gates above 0 are": gate > _FLOAT16,
            "up halves are": up.abs() > _FLOAT16,
            "activations are": a.abs() > _FLOAT16,
            "results of slots are": y.abs() > _FLOAT16,
            "sums of slots are": sums.abs() > _FLOAT16,
        },
    )


def _exponentials(z: Tensor, s: Situation) -> Iterator[tuple[str, Tensor]]:
    alpha, limit = s.config.activation.alpha, s.config.activation.limit
    gate, _ = split_halves(z)
    exponents = {
        f"exp({alpha:g} gate')": alpha * gate.clamp(max=limit),
        f"exp(-{alpha:g} gate)": -alpha * gate,
        f"exp({alpha:g} gate), not clamped,": alpha * gate,
    }
    for name, most in (("float32", _EXP), ("float16", math.log(_FLOAT16))):
        yield from _alike(
            f"not finite: exactly the tokens where {{}} leaves {name}",
            {words: exponent > most for words, exponent in exponents.items()},
        )


def _alike(words: str, where: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """One sentence for all that happens in the same tokens."""
    left = {name: mask.flatten(1).any(dim=1) for name, mask in where.items()}
    while left:
        tokens = next(iter(left.values()))
        names = [name for name, other in left.items() if torch.equal(other, tokens)]
        yield words.format(" or ".join(names)), tokens
        left = {name: other for name, other in left.items() if name not in names}


def _thresholds(rows: Tensor, judged: Judged, s: Situation) -> Iterator[str]:
    """What is larger in every token that is not finite than in any other."""
    if rows.all() or int(rows.sum()) < _FEWEST or int((~rows).sum()) < _FEWEST:
        return
    gate, up = split_halves(judged.truth["gate_up"])
    for words, sign, values in (
        ("a gate is above", 1, gate),
        ("a gate is below", -1, gate),
        ("an up half is above", 1, up),
        ("an up half is below", -1, up),
        ("an activation is above", 1, judged.truth["activation"]),
        ("an activation is below", -1, judged.truth["activation"]),
        ("a slot's result is above", 1, judged.truth["down"]),
        ("a hidden state is above", 1, s.hidden_states.double()),
        ("a hidden state is below", -1, s.hidden_states.double()),
        ("a routing weight is above", 1, s.routing.weights.double()),
        ("a routing weight is below", -1, s.routing.weights.double()),
    ):
        if not values.numel():  # a rank without lanes
            continue
        most = (sign * values).flatten(1).amax(dim=1)
        low, high = float(most[~rows].max()), float(most[rows].min())
        if low < high:
            first, last = sorted((sign * low, sign * high))
            yield (
                f"not finite: exactly the tokens where {words} a number from "
                f"{first:.3g} to {last:.3g}"
            )


def _largest(s: Situation, local: int) -> str:
    """The largest scale byte of an expert, and where it stands."""
    found = {
        name: getattr(s.part, f"{name}_scales")[local] for name in ("gate_up", "down")
    }
    if not found["down"].numel():  # a rank without lanes
        return ""
    name = max(found, key=lambda n: int(found[n].max()))
    scales = found[name]
    row, block = divmod(int(scales.flatten().int().argmax()), scales.shape[1])
    return f" (largest scale: {_bytes(s, name, local, row, block)})"


def _bytes(s: Situation, name: str, local: int, row: int, block: int) -> str:
    blocks = getattr(s.part, f"{name}_blocks")[local, row, block]
    scale = int(getattr(s.part, f"{name}_scales")[local, row, block])
    shown = " ".join(f"{b:02x}" for b in blocks.tolist())
    return f"{name} row {row}, K block {block}: scale 0x{scale:02x}, bytes {shown}"


def first_nonfinite(stages: Mapping[str, Tensor], s: Situation) -> list[str]:
    """The first stage of a trace that is not finite: expert, row, block, bytes."""
    for stage in ("gate_up", "activation", "down", "combine"):
        if stage not in stages:
            continue
        wrong = ~stages[stage].detach().cpu().isfinite()
        if not wrong.any():
            continue
        at = wrong.nonzero()[0].tolist()
        line = f"first not finite: {stage}, token {at[0]}, "
        if len(at) != 3:
            return [f"{line}column {at[-1]}; its inputs are finite"]
        expert = int(s.routing.ids[at[0], at[1]])
        line += f"slot {at[1]} (expert {expert}), row {at[2]}"
        owned = s.shard.expert_range(s.config)
        if stage == "activation" or expert not in owned:
            return [f"{line}; its inputs are finite"]
        matrix = "gate_up" if stage == "gate_up" else "down"
        local = expert - owned.start
        block = _heaviest(s, matrix, local, at[2])
        where = _bytes(s, matrix, local, at[2], block)
        return [f"{line}; its inputs are finite, the largest products: {where}"]
    return []


def _heaviest(s: Situation, matrix: str, local: int, row: int) -> int:
    """The K block of a row with the largest weight."""
    blocks = getattr(s.part, f"{matrix}_blocks")[local, row]
    scales = getattr(s.part, f"{matrix}_scales")[local, row]
    weights = decode(blocks, scales).abs().nan_to_num(nan=torch.inf)
    return int(weights.unflatten(-1, (-1, BLOCK)).amax(dim=-1).argmax())
