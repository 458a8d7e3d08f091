"""Is an output right? Asked of every contestant at every token count, before a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.compare_numbers import NumberDifference
from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.fused import clear_choices
from mxmoe.conformance.bounds.fused import judge_whole_layer
from mxmoe.evals.moe_contest.contestant import Contestant
from mxmoe.evals.moe_contest.workload import Workload
from mxmoe.reference.types import Arithmetic

# Of a larger batch so many tokens, drawn once, are compared with the reference, which
# is slow; the others are looked at for NaN and Inf.
JUDGED_TOKENS = 64


@dataclass(frozen=True)
class Finding:
    """worst : largest error / bound, if compared. refusal : why not to time it."""

    worst: float | None = None
    refusal: str | None = None


class Judgement:
    """The suite's truth and bound for some tokens of each batch.

    One reference pass over the tokens of all batches serves each class of arithmetic:
    a token's output does not depend on its neighbours.
    """

    def __init__(self, workload: Workload, counts: Sequence[int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._workload = workload
        self._rows = {
            count: torch.randperm(count, generator=generator)[:JUDGED_TOKENS].sort()[0]
            for count in counts
        }
        self._all_rows = torch.cat(list(self._rows.values())).unique()
        self._bounds: dict[
            tuple[Arithmetic, torch.dtype], tuple[torch.Tensor, torch.Tensor]
        ] = {}

    def prepare(self, contestant: Contestant) -> None:
        """Compute truth and bound of the contestant's class, once for each class."""
        if _class(contestant) in self._bounds:
            return
        load = self._workload
        x = load.hidden_states[self._all_rows.to(load.hidden_states.device)]
        arithmetic, dtype = _class(contestant)
        choices = clear_choices(load.weights, load.config, x, arithmetic)
        # `make_workload` took only tokens that are clear under the coarsest class.
        assert choices.clear.all()
        judged = judge_whole_layer(
            load.weights, load.config, x, choices, arithmetic, dtype
        )
        self._bounds[arithmetic, dtype] = (
            judged.truth["combine"].cpu(),
            judged.allowed["combine"].cpu(),
        )

    def finding(self, contestant: Contestant, out: object, tokens: int) -> Finding:
        """What speaks against `out`, the output for the first `tokens` tokens."""
        shape = (tokens, self._workload.config.hidden)
        if not isinstance(out, torch.Tensor):
            return Finding(
                refusal=f"returned {type(out).__name__}, expected a tensor {shape}"
            )
        if tuple(out.shape) != shape or not out.is_floating_point():
            return Finding(
                refusal=f"returned {out.dtype} {tuple(out.shape)}, expected "
                f"{contestant.arithmetic.output} {shape}"
            )
        finite = out.isfinite()
        if not finite.all():
            token = int((~finite).any(dim=1).int().argmax())
            return Finding(
                refusal=f"not finite: {int((~finite).sum())} of {out.numel()} "
                f"elements, first in token {token}"
            )
        return self._compared(contestant, out, tokens)

    def _compared(
        self, contestant: Contestant, out: torch.Tensor, tokens: int
    ) -> Finding:
        truth, allowed = self._bounds[_class(contestant)]
        rows = self._rows[tokens]
        at = torch.searchsorted(self._all_rows, rows)
        difference = compare_numbers(out[rows.to(out.device)], truth[at], allowed[at])
        if difference.within:
            return Finding(worst=difference.worst)
        return Finding(worst=difference.worst, refusal=_out_of_bound(difference, rows))


def _class(contestant: Contestant) -> tuple[Arithmetic, torch.dtype]:
    return contestant.arithmetic, contestant.routing_dtype


def _out_of_bound(difference: NumberDifference, rows: torch.Tensor) -> str:
    row, column = difference.at
    bad = difference.bad
    return (
        f"out of bound: token {int(rows[row])}, column {column}: expected "
        f"{difference.expected:.6g}, found {difference.found:.6g}, "
        f"{difference.worst:.3g} x what is allowed; {int(bad.sum())} of {bad.numel()} "
        f"judged elements, in {int(bad.any(dim=1).sum())} of {len(rows)} tokens and "
        f"{int(bad.any(dim=0).sum())} columns"
    )
