"""One checksum sees the order of entries, the other does not."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mxmoe.evals.locate.checksums import checksums

tensors = st.builds(
    lambda seed, rows, columns, dtype: torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(seed)
    ).to(dtype),
    st.integers(0, 2**20),
    st.integers(2, 9),
    st.integers(2, 9),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)


@given(tensors, st.integers(1, 9))
def test_parts_give_what_the_whole_gives(x: torch.Tensor, size: int) -> None:
    assert checksums(x.split(size)) == checksums([x])


@given(tensors)
def test_rows_in_another_order_are_permuted_rows(x: torch.Tensor) -> None:
    assert checksums([x]).compare(checksums([x])) is None
    assert checksums([x.flip(0)]).compare(checksums([x])) == "rows permuted"


@given(tensors)
def test_entries_in_another_order_are_permuted(x: torch.Tensor) -> None:
    assert checksums([x.flip(1)]).compare(checksums([x])) == "permuted"


@given(tensors)
def test_another_entry_differs(x: torch.Tensor) -> None:
    other = x.clone()
    other[0, 0] += 1
    assert checksums([other]).compare(checksums([x])) == "differs"
