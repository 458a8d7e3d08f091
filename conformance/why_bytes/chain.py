"""Why prepared bytes differ: the edit of the layout's own steps that gives them.

A layout is a chain of named steps, and so a loader's fault is a step missing,
doubled, inverted, in another place or with another parameter. Each such edit of one
or two steps is run on the checkpoint; those that give the found bytes are named.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import torch

from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.conformance.why_bytes.chain_edits import Edited
from mxmoe.conformance.why_bytes.chain_edits import other_steps
from mxmoe.conformance.why_bytes.chain_edits import with_steps
from mxmoe.conformance.why_bytes.chain_lanes import another_place
from mxmoe.conformance.why_bytes.chain_places import expert_words
from mxmoe.conformance.why_bytes.suspect import Prepared
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.conformance.why_bytes.suspects import suspect_of
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import Constant
from mxmoe.reference.layouts import Derived
from mxmoe.reference.layouts import steps
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig

# Two steps are edited on tensors up to this size only, and an explanation is confirmed
# on all experts of it, to stay within seconds.
_PAIRS_UP_TO_BYTES = 2**21
_FIRST_ROWS = 64
# Wrong lanes and a wrong step are tried together where a chain runs in 0.3 ms.
_ELSEWHERE_UP_TO_ENTRIES = 2**15
# Values of padding that are listed.
_LISTED = 4


def explain_chain(
    prepared: Prepared, expert: int = 0, suspect: Suspect | None = None
) -> list[str]:
    """Every edit under which the layout gives `found`, the simplest kind only.

    expert : the local expert that is looked at most closely. suspect : of `prepared`,
    if it is at hand.
    """
    chain = prepared.chains()[prepared.name]
    if isinstance(chain, Constant):
        return _other_constants(prepared)
    if isinstance(chain, Derived):
        return _other_part(chain, prepared)
    suspect = suspect or suspect_of(prepared, expert)
    if suspect is None:
        return _of_another_shape(chain, prepared, expert)
    kinds: list[Callable[[Suspect], Edited]] = [
        lambda s: one_step(s.chain),
        lambda s: another_place(s.chain, prepared, s.config),
    ]
    padding = _only_padding(suspect)
    if padding:
        # Padding of many values is the content of something else.
        moved = [*kinds, lambda s: other_steps(s.chain)] if "..." in padding else []
        return next(filter(None, (_hits(suspect, kind) for kind in moved)), [padding])
    if prepared.found.nbytes <= _PAIRS_UP_TO_BYTES:
        kinds.append(lambda s: _two_steps(s.chain))
    if suspect.index_map.index.numel() <= _ELSEWHERE_UP_TO_ENTRIES:
        kinds.append(lambda s: _one_step_elsewhere(s.chain, prepared, s.config))
    for kind in kinds:
        hits = _hits(suspect, kind)
        if hits:
            return hits
    return [] if prepared.shard.ep_size == 1 else _other_experts(prepared)


def _hits(suspect: Suspect, kind: Callable[[Suspect], Edited]) -> list[str]:
    """The edits that give the whole tensor, tried on fewer columns first."""
    narrow = suspect.narrow
    hits = [words for words, edited in kind(narrow) if _gives(narrow, words, edited)]
    if narrow is not suspect and hits:
        named = set(hits)
        again = ((words, edited) for words, edited in kind(suspect) if words in named)
        hits = [words for words, edited in again if _gives(suspect, words, edited)]
    return likeliest(hits)


def likeliest(hits: list[str]) -> list[str]:
    """A step that is its own inverse on this shape: forgetting it is likelier."""
    both = {}
    for name in hits:
        before, missing, step = name.rpartition("missing: ")
        if missing and f"{before}{step} twice" in hits:
            both[name] = f"{before}{step} twice"
    return [
        f"{name} (or done twice: equal bytes here)" if name in both else name
        for name in dict.fromkeys(hits)
        if name not in both.values()
    ]


def _of_another_shape(chain: Chain, prepared: Prepared, expert: int) -> list[str]:
    """Edits that give another shape, too, if it is the found one."""
    for kind in (one_step(chain), another_place(chain, prepared, prepared.config)):
        hits = [n for n, edited in kind if _gives_shape(edited, prepared, expert)]
        if hits:
            return likeliest(hits)
    return []


def one_step(chain: Chain) -> Edited:
    """One step missing, twice, inverted or with another parameter."""
    for n, step in enumerate(chain.steps):
        yield f"missing: {step}", chain.without(n)
        yield f"{step} twice", with_steps(chain, n, n + 1, step, step)
        inverse = Step(f"inverse of {step}", step.undo, step.apply)
        yield f"the inverse of {step}", with_steps(chain, n, n + 1, inverse)
        for words, other in _variants(step):
            yield words, with_steps(chain, n, n + 1, other)
    gated = [n for n, s in enumerate(chain.steps) if s.name == "gated interleave"]
    for n in gated:
        # Both inverted and in the other order: the inverse of the two together.
        scattered = [
            Step(step.name, step.undo, step.apply)
            for step in reversed(chain.steps[n : n + 2])
        ]
        edited = (*chain.steps[:n], *scattered, *chain.steps[n + 2 :])
        yield "rows scattered, not gathered", replace(chain, steps=edited)
    if chain.divisor > 1:
        yield "missing: division by tp", replace(chain, divisor=1)
        yield "divided by tp twice", replace(chain, divisor=chain.divisor**2)
    if chain.bits is not None:
        yield f"missing: {chain.bits}", replace(chain, bits=None)


def _two_steps(chain: Chain) -> Edited:
    for m, n in combinations(range(len(chain.steps)), 2):
        first, second = chain.steps[m], chain.steps[n]
        yield f"missing: {first}, {second}", chain.without(n).without(m)
        swapped = list(chain.steps)
        swapped[m], swapped[n] = second, first
        words = f"{second} before {first}, not after it"
        yield words, replace(chain, steps=tuple(swapped))


def _one_step_elsewhere(chain: Chain, prepared: Prepared, config: MoEConfig) -> Edited:
    for words, elsewhere in another_place(chain, prepared, config):
        for more, edited in one_step(elsewhere):
            yield f"{words}; {more}", edited


def _variants(step: Step) -> Iterator[tuple[str, Step]]:
    """Steps that engines take in the place of this one."""
    for block in (16, 32):
        other = steps.row_shuffle(block)
        if step.name.startswith("row shuffle") and step.name != other.name:
            yield f"{other} instead of {step}", other
    if step.name == steps.stack_up_gate().name:
        gates_first = Step(
            "stack gate, up",
            lambda x: x.flatten(0, 1),
            lambda x: x.unflatten(0, (2, -1)),
        )
        yield f"{gates_first} instead of up, gate", gates_first


def _only_padding(suspect: Suspect) -> str:
    """What the padding holds, if all the rest is right."""
    padding = suspect.index == PADDING
    if bool(suspect.differs[:, ~padding].any()):
        return ""
    bits = suspect.found[:, padding].unique()
    more = ", ..." if len(bits) > _LISTED else ""
    bits = bits[:_LISTED]
    if bits.dtype != torch.uint8:
        bits = bits.view(suspect.prepared.found.dtype)
    held = sorted({float(value) for value in bits})
    values = ", ".join(f"{v:g}" for v in held)
    return f"only the padding differs: it holds {values}{more}"


def _other_experts(prepared: Prepared) -> list[str]:
    hits = []
    for rank in range(prepared.shard.ep_size):
        shard = replace(prepared.shard, ep_rank=rank)
        expected = prepared.layout.expected_tensor(
            prepared.name, prepared.weights, prepared.config, shard
        )
        if rank != prepared.shard.ep_rank and _same(expected, prepared.found):
            hits.append(f"the experts of ep rank {rank}, not {prepared.shard.ep_rank}")
    return hits


def _other_constants(prepared: Prepared) -> list[str]:
    chains, found = prepared.chains(), prepared.found.cpu()
    wanted = chains[prepared.name]
    assert isinstance(wanted, Constant)
    names = [
        f"holds {name}"
        for name, constant in chains.items()
        if isinstance(constant, Constant) and _same(constant.expand(len(found)), found)
    ]
    if names or found.dim() != 1 or not found.is_floating_point():
        return names
    wrong = (found != wanted.expand(len(found))).nonzero().flatten()
    held = found[wrong].unique()
    if len(held) != 1 or f"{float(held):g}" == f"{wanted.value:g}":
        return []
    owned = prepared.shard.expert_range(prepared.config)
    at = [owned[int(e)] for e in wrong]
    only = expert_words(at, prepared.config.experts)
    part = "" if len(at) == len(owned) else f", in {only} only"
    return [f"holds {float(held):g}, not {wanted.value:g}{part}"]


def _other_part(derived: Derived, prepared: Prepared) -> list[str]:
    """What else a value that is computed may have been computed from."""
    whole = derived.of_rank(prepared.weights, prepared.config, WHOLE)
    if not prepared.shard.is_whole() and _same(whole, prepared.found):
        return ["that of the whole layer, not of this rank's part"]
    if whole.dtype == torch.bool and _same(whole, ~prepared.found):
        return ["the opposite of what it should be"]
    return []


def _gives(suspect: Suspect, words: str, chain: Chain) -> bool:
    place = suspect.place(words, chain)
    return place is not None and place.everywhere


def _gives_shape(chain: Chain, prepared: Prepared, expert: int) -> bool:
    """Whether `chain` gives the found bytes, of one expert first, then of all."""
    found = prepared.found
    try:
        index_map = chain.index_map(prepared.config)
    except (RuntimeError, IndexError, ValueError):  # the rest does not fit the shape
        return False
    if index_map.shape != tuple(found.shape[1:]):
        return False
    e = prepared.shard.expert_range(prepared.config)
    source = prepared.weights.tensors()[chain.source][e.start : e.stop]
    if len(source) != len(found):
        return False
    wanted = found.to(source.device)
    # Almost every wrong edit shows in the first rows.
    first = replace(index_map, index=index_map.index[:_FIRST_ROWS])
    for part in (first, index_map):
        gathered = part.gather_expert(source[expert])
        if not _same(gathered, wanted[expert][: len(gathered)]):
            return False
    return _same(index_map.gather(source), wanted)


def _same(tensor: torch.Tensor, found: torch.Tensor) -> bool:
    return (tensor.shape, tensor.dtype) == (found.shape, found.dtype) and torch.equal(
        as_bytes(tensor), as_bytes(found)
    )
