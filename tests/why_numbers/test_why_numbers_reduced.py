"""What a candidate's own all_reduce makes of the ranks' outputs is named."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.ranks import reducing
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.ranks import judge_all_reduce
from mxmoe.conformance.judging.record import Record
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import Failure

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")
CASE = "e4k2h64i224/tp3r0/t17/s0"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings() as found:
        yield found


def said(
    all_reduce: Callable[[list[Tensor]], Tensor], settings: Settings, *, telling: bool
) -> str:
    """The line ``why`` of a failure."""
    subject, record = subject_of(reducing(all_reduce)), Record(telling=telling)
    with pytest.raises(Failure) as caught:
        judge_all_reduce(Judge(subject, settings, "test", record), parse_case(CASE))
    [line] = [t for t in caught.value.text.splitlines() if t.startswith("why ")]
    return line


def _tail_not_reduced(parts: list[Tensor]) -> Tensor:
    total = torch.stack(parts).sum(dim=0)
    total[:, -16:] = parts[0][:, -16:]
    return total


def _in_float8(parts: list[Tensor]) -> Tensor:
    rounded = [part.float().to(torch.float8_e4m3fn).float() for part in parts]
    return torch.stack(rounded).sum(dim=0).to(parts[0].dtype)


def _last_shifted(parts: list[Tensor]) -> Tensor:
    return torch.stack([*parts[:-1], parts[-1].roll(1, 0)]).sum(dim=0)


def _first_twice(parts: list[Tensor]) -> Tensor:
    return len(parts) * torch.stack(parts).sum(dim=0)


REDUCED: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "not reduced: the output of rank tp3r0 alone, in columns 48..63 only": (
        _tail_not_reduced
    ),
    "each rank's output rounded to float8 (E4M3) before the sum": _in_float8,
    "token n takes the output of rank tp3r2 for token n - 1": _last_shifted,
    "reduced twice (3 times the sum)": _first_twice,
}


@pytest.mark.parametrize("telling", [False, True])
@pytest.mark.parametrize("words", REDUCED)
def test_what_an_all_reduce_does_otherwise_is_named(
    words: str, telling: bool, settings: Settings
) -> None:
    line = said(REDUCED[words], settings, telling=telling)
    assert line == f"why    behaves as if: {words}"


def test_nothing_is_claimed_for_a_noisy_all_reduce(settings: Settings) -> None:
    def noisy(parts: list[Tensor]) -> Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.stack(parts).sum(0) + torch.randn(
            parts[0].shape, generator=random
        ).to(parts[0].dtype)

    line = said(noisy, settings, telling=True)
    assert line == "why    no mixture of the ranks' outputs gives this sum"
