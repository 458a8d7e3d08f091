"""Mutants under the suite's checks: quickly first, then what survived, thoroughly."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from mxmoe.conformance.faults.kill import CAUGHT
from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.faults.kill import conclude
from mxmoe.conformance.faults.mutants import Mutant
from mxmoe.conformance.faults.survivors import explained
from mxmoe.conformance.judging.trial import checks
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.settings import Settings

# Checks of a second and less, and few cases: nine of ten mutants fail one of them.
QUICK_CHECKS = (
    "test_decode_is_exact_for_every_scale_and_byte",
    "test_traced_stages_stay_within_the_bound",
    "test_route_chooses_the_top_k",
    "test_route_weights_are_the_softmax_of_the_chosen",
    "test_minus_one_contributes_nothing",
    "test_zero_tokens_give_an_empty_output",
    "test_prepare_does_not_modify_the_checkpoint",
    "test_fused_routing_stays_within_the_bound",
    "test_layer_output_stays_within_the_bound",
    "test_prepared_bytes_match_the_layout",
    "test_tensor_parallel_ranks_sum_to_the_whole",
)
QUICK_EXAMPLES = 3


def kill_mutants(
    mutants: Iterable[Mutant],
    *,
    profile: str,
    step: Callable[[str], object],
    full: bool = False,
) -> list[Kill]:
    """One result each; ``step(text)`` is called before each of them.

    A survivor of the quick checks that is not explained is judged by all checks, under
    `profile`. full : those that are explained as well.
    """
    found: dict[Mutant, Kill] = {}
    with repeatable_settings(layers=(0,), examples=QUICK_EXAMPLES) as quick:
        for mutant in mutants:
            step(str(mutant))
            found[mutant] = kill_mutant(mutant, quick, QUICK_CHECKS)
    again = [
        mutant
        for mutant, one in found.items()
        if one.survived and (full or explained(one.fault) is None)
    ]
    with repeatable_settings(profile=profile, seed=0) as thorough:
        for mutant in again:
            step(str(mutant))
            found[mutant] = kill_mutant(mutant, thorough, tuple(checks()))
    return list(found.values())


def kill_mutant(mutant: Mutant, settings: Settings, names: Sequence[str]) -> Kill:
    """Make the checks `names` in turn, until one catches the mutant."""
    name = mutant.source.path.stem
    start = time.monotonic()
    words: dict[str, str] = {}
    first, reason = None, ""
    try:
        subject = mutant.subject()
    except Exception as error:
        reason = f"does not load: {type(error).__name__}: {error}"
        return Kill(fault=str(mutant), base=name, level="", seed=0, reason=reason)
    for check in names:
        words[check] = conclude(check, subject, settings)
        if words[check] == CAUGHT:
            first = check
            break
    return Kill(
        fault=str(mutant),
        base=name,
        level="",
        seed=0,
        checks=words,
        first=first,
        seconds=time.monotonic() - start,
    )
