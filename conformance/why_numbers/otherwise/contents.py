"""What an expert may hold otherwise: codes, scales, rows and K blocks of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import Content
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Matrix
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.k_tiles import k_tiles
from mxmoe.conformance.why_numbers.otherwise.row_pairs import row_pairs

Tensor = torch.Tensor
Change = Callable[[Tensor], Tensor]

_BOTH = ("gate_up", "down")
_MATRICES = (("gate_up",), ("down",), _BOTH)
# Two matrices of each slot of a token.
_KEPT = 16


def contents_otherwise(blocks: dict[str, int]) -> Iterator[Otherwise]:
    """Every edit below, of gate_up, of down and of both.

    blocks : how many K blocks each of the two matrices has.
    """
    for name, change in DECODED.items():
        once = _once(change)
        for matrices in _MATRICES:
            words = name.format(" and ".join(matrices))
            yield Otherwise(name=words, edit=edited(once, matrices))
    for name, change in k_tiles():
        for matrices in _MATRICES:
            words = name.format(" and ".join(matrices))
            yield Otherwise(name=words, edit=edited(_once(change), matrices))
    for matrices in _MATRICES:
        words = f"{' and '.join(matrices)} transposed, square here"
        yield Otherwise(name=words, edit=partial(_transposed, matrices=matrices))
    for matrix, count in blocks.items():
        yield from _blocks(matrix, count)
        yield from _biases(matrix)
        for words, pairs in row_pairs(matrix):
            yield Otherwise(name=words, edit=edited(_once(pairs), (matrix,)))


def edited(change: Callable[[Matrix], Matrix], matrices: tuple[str, ...]):  # type: ignore[no-untyped-def]
    """The edit that makes `change` in each of `matrices`."""

    def edit(experts: Experts, local: int) -> Content:
        content = experts.content(local)
        return replace(content, **{m: change(getattr(content, m)) for m in matrices})

    return edit


def _transposed(experts: Experts, local: int, *, matrices: tuple[str, ...]) -> Content:
    """[rows, k] read as [k, rows], if every one of `matrices` is square."""
    content = experts.content(local)
    turned = {}
    for name in matrices:
        m: Matrix = getattr(content, name)
        if m.dense.shape[0] != m.dense.shape[1]:
            return content
        values = m.dense.T.unflatten(1, m.elements.shape[1:])
        turned[name] = replace(m, elements=values, scales=torch.ones_like(m.scales))
    return replace(content, **turned)


def _once(change: Callable[[Matrix], Matrix]) -> Callable[[Matrix], Matrix]:
    """As `change`, which is made once to each of the last matrices."""
    known: dict[int, tuple[Matrix, Matrix]] = {}

    def remembered(m: Matrix) -> Matrix:
        if id(m) not in known:
            if len(known) == _KEPT:
                del known[next(iter(known))]
            known[id(m)] = m, change(m)
        return known[id(m)][1]

    return remembered


def _blocks(matrix: str, count: int) -> Iterator[Otherwise]:
    for block in range(count if count > 1 else 0):
        last = ", the last," if block == count - 1 else ""
        for words, factor in (("dropped", 0.0), ("counted twice", 2.0)):

            def change(m: Matrix, block: int = block, factor: float = factor) -> Matrix:
                scales = m.scales.clone()
                scales[:, block] *= factor
                return replace(m, scales=scales)

            name = f"K block {block}{last} of {matrix} {words}"
            yield Otherwise(name=name, edit=edited(change, (matrix,)))
    # What a prologue or a tail of the K loop does in a way of its own.
    for block in dict.fromkeys((0, count - 1)) if count > 1 else ():
        for name, one in _IN_ONE_BLOCK.items():
            last = ", the last," if block == count - 1 else ""
            words = name.format(f"K block {block}{last} of {matrix}")
            own = partial(_only_in, block, one)
            yield Otherwise(name=words, edit=edited(own, (matrix,)))


def _biases(matrix: str) -> Iterator[Otherwise]:
    """Where the bias of an expert's row is taken from, by wrong index arithmetic."""
    for unit in (8, 16, 32, 64, 128, 256):
        name = f"the first {unit} entries of the {matrix} bias used for every {unit}"
        yield Otherwise(
            name=name, edit=edited(partial(_bias_repeated, unit), (matrix,))
        )
        name = f"one entry of the {matrix} bias used for {unit} rows"
        yield Otherwise(name=name, edit=edited(partial(_bias_shared, unit), (matrix,)))
    for words, stride in _STRIDES.items():
        name = f"{matrix} bias of expert e begins at entry {words}"
        edit = partial(_bias_from, matrix=matrix, stride=stride)
        yield Otherwise(name=name, edit=edit)


def _bias_repeated(unit: int, m: Matrix) -> Matrix:
    return replace(m, bias=m.bias[torch.arange(len(m.bias)) % unit])


def _bias_shared(unit: int, m: Matrix) -> Matrix:
    return replace(m, bias=m.bias[torch.arange(len(m.bias)) // unit])


def _bias_from(
    experts: Experts, local: int, *, matrix: str, stride: Callable[[int], int]
) -> Content:
    """From the first again behind the last entry of all experts."""
    content = experts.content(local)
    whole = getattr(experts.situation.part, f"{matrix}_bias")
    m = getattr(content, matrix)
    rows = len(m.bias)
    if whole is None or stride(rows) == rows:
        return content
    share = experts.situation.shard.tp_size if matrix == "down" else 1
    at = (local * stride(rows) + torch.arange(rows)) % whole.numel()
    bias = whole.flatten()[at].double() / share
    return replace(content, **{matrix: replace(m, bias=bias)})


def _padded(unit: int) -> Callable[[int], int]:
    return lambda rows: -(-rows // unit) * unit


# Of the rows of an expert: what e is multiplied by.
_STRIDES: dict[str, Callable[[int], int]] = {
    "e": lambda rows: 1,
    "e * rows / 2": lambda rows: rows // 2,
    "e * rows * 2": lambda rows: rows * 2,
    "e * (rows rounded up to 64)": _padded(64),
    "e * (rows rounded up to 128)": _padded(128),
    "e * (rows rounded up to 256)": _padded(256),
}


def _only_in(block: int, change: Callable[[Matrix], Matrix], m: Matrix) -> Matrix:
    other = change(m)
    elements, scales = m.elements.clone(), m.scales.clone()
    elements[:, block], scales[:, block] = (
        other.elements[:, block],
        other.scales[:, block],
    )
    return replace(m, elements=elements, scales=scales)


def _elements(change: Change) -> Callable[[Matrix], Matrix]:
    return lambda m: replace(m, elements=change(m.elements))


def _scales(change: Change) -> Callable[[Matrix], Matrix]:
    return lambda m: replace(m, scales=change(m.scales))


def _stored(dtype: torch.dtype) -> Callable[[Matrix], Matrix]:
    def change(m: Matrix) -> Matrix:
        values = through(m.elements * m.scales[..., None], dtype=dtype)
        return replace(m, elements=values, scales=torch.ones_like(m.scales))

    return change


def _bias_in(dtype: torch.dtype) -> Callable[[Matrix], Matrix]:
    return lambda m: replace(m, bias=through(m.bias, dtype=dtype))


def _scale_of(group: int) -> Callable[[Matrix], Matrix]:
    """The scale at k // group, from the first again at the end of a row."""

    def change(m: Matrix) -> Matrix:
        k, count = m.elements[0].numel(), m.scales.shape[1]
        taken = m.scales[:, torch.arange(k) // group % count]
        values = m.elements * taken.unflatten(1, (count, -1))
        return replace(m, elements=values, scales=torch.ones_like(m.scales))

    return change


def _codes(meaning: Change) -> Callable[[Matrix], Matrix]:
    return lambda m: replace(m, elements=meaning(m.codes).double())


def _rows(change: Change) -> Callable[[Matrix], Matrix]:
    """Elements and scales; the bias stays."""
    return lambda m: replace(m, elements=change(m.elements), scales=change(m.scales))


def _pairs_swapped(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def _low_nibbles_first(x: Tensor) -> Tensor:
    return torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)


def _pairs_share(x: Tensor) -> Tensor:
    return x[:, torch.arange(x.shape[1]) // 2 * 2]


def _of_columns(x: Tensor) -> Tensor:
    """The number at (row, g) of a matrix that is read column by column."""
    return x.T.reshape(x.shape)


def _tail_rows(x: Tensor) -> Tensor:
    cut = x.clone()
    cut[-1] = 0
    return cut


def _whole_tiles(x: Tensor, unit: int) -> Tensor:
    cut = x.clone()
    if len(x) > unit:
        cut[len(x) // unit * unit :] = 0
    return cut


_IN_ONE_BLOCK: dict[str, Callable[[Matrix], Matrix]] = {
    "nibbles of {} swapped": _elements(_pairs_swapped),
    "low nibbles of {} first": _elements(_low_nibbles_first),
    "elements of {} reversed": _elements(lambda x: x.flip(-1)),
    "{} with the scale of the block before": _scales(lambda x: x.roll(1, 1)),
    "{} with the scale of the next block": _scales(lambda x: x.roll(-1, 1)),
    "{} with the elements of the block before": _elements(lambda x: x.roll(1, 1)),
    "{} with the elements of the next block": _elements(lambda x: x.roll(-1, 1)),
    "scale of {} ignored (1)": _scales(torch.ones_like),
}

DECODED: dict[str, Callable[[Matrix], Matrix]] = {
    "signs of {} ignored": _elements(torch.abs),
    "signs of {} inverted": _elements(torch.neg),
    "codes of {} read as two's complement integers": _codes(
        lambda c: torch.where(c < 8, c, c - 16)
    ),
    "codes of {} read as a sign and an integer": _codes(
        lambda c: torch.where(c < 8, c, 8 - c)
    ),
    "codes of {} read as integers less 8": _codes(lambda c: c - 8),
    "nibbles of {} swapped": _elements(_pairs_swapped),
    "low nibbles of each block of {} first": _elements(_low_nibbles_first),
    "elements reversed in each block of {}": _elements(lambda x: x.flip(-1)),
    "the low nibble of each byte of {} read twice": _elements(
        lambda x: x[..., 0::2].repeat_interleave(2, -1)
    ),
    "{} scales ignored (1 each)": _scales(torch.ones_like),
    "the first scale of each row of {} used for all its K blocks": _scales(
        lambda x: x[:, :1].expand_as(x)
    ),
    "the last scale of each row of {} used for all its K blocks": _scales(
        lambda x: x[:, -1:].expand_as(x)
    ),
    "one scale of {} used for two K blocks": _scales(_pairs_share),
    "the largest scale of each row of {} used for all its K blocks": _scales(
        lambda x: x.amax(dim=1, keepdim=True).expand_as(x)
    ),
    "{} scales of the K block before": _scales(lambda x: x.roll(1, 1)),
    "{} scales of the next K block": _scales(lambda x: x.roll(-1, 1)),
    "{} scales of the K block before, the first keeps its own": _scales(
        lambda x: torch.cat((x[:, :1], x[:, :-1]), dim=1)
    ),
    "{} scales of the next K block, the last keeps its own": _scales(
        lambda x: torch.cat((x[:, 1:], x[:, -1:]), dim=1)
    ),
    "{} scales of the row before": _scales(lambda x: x.roll(1, 0)),
    "{} scales of the next row": _scales(lambda x: x.roll(-1, 0)),
    "{} scales of row 0 used for every row": _scales(lambda x: x[:1].expand_as(x)),
    "{} scales read as if they were stored [g, rows]": _scales(_of_columns),
    "{} scales twice as large": _scales(lambda x: 2 * x),
    "{} scales half as large": _scales(lambda x: x / 2),
    "{} scales four times as large": _scales(lambda x: 4 * x),
    "{} scales a quarter as large": _scales(lambda x: x / 4),
    "{} scales squared": _scales(torch.square),
    "square roots of the {} scales": _scales(torch.sqrt),
    "elements of {} one K block ahead of their scales": _elements(
        lambda x: x.roll(-1, 1)
    ),
    "elements of {} one K block behind their scales": _elements(lambda x: x.roll(1, 1)),
    "K blocks of {} in reverse": _rows(lambda x: x.flip(1)),
    "weight rows of {} shifted by one": _rows(lambda x: x.roll(1, 0)),
    "weight rows of {} shifted back by one": _rows(lambda x: x.roll(-1, 0)),
    "rows of {} reversed": _rows(lambda x: x.flip(0)),
    "last row of {} missing": _rows(_tail_rows),
    "rows of {} in whole tiles of 64 only": _rows(lambda x: _whole_tiles(x, 64)),
    "rows of {} in whole tiles of 128 only": _rows(lambda x: _whole_tiles(x, 128)),
    "rows of {} in whole tiles of 256 only": _rows(lambda x: _whole_tiles(x, 256)),
    "weights of {} rounded to float8 (E4M3)": _stored(torch.float8_e4m3fn),
    "weights of {} rounded to float8 (E5M2)": _stored(torch.float8_e5m2),
    "weights of {} rounded to float16": _stored(torch.float16),
    "a scale of {} taken for each 16 elements, not 32": _scale_of(16),
    "a scale of {} taken for each 64 elements, not 32": _scale_of(64),
    "{} bias rounded to float8 (E4M3)": _bias_in(torch.float8_e4m3fn),
    "{} bias rounded to float8 (E5M2)": _bias_in(torch.float8_e5m2),
    "{} bias ignored": lambda m: replace(m, bias=torch.zeros_like(m.bias)),
    "{} bias added twice": lambda m: replace(m, bias=2 * m.bias),
    "{} bias subtracted": lambda m: replace(m, bias=-m.bias),
    "{} bias of the row before": lambda m: replace(m, bias=m.bias.roll(1)),
    "{} bias of the next row": lambda m: replace(m, bias=m.bias.roll(-1)),
    "{} bias shifted by two rows": lambda m: replace(m, bias=m.bias.roll(2)),
    "{} bias shifted back by two rows": lambda m: replace(m, bias=m.bias.roll(-2)),
    "{} bias of row 0 in every row": lambda m: replace(
        m, bias=m.bias[:1].expand_as(m.bias)
    ),
    "{} bias multiplied by the row's first scale": lambda m: replace(
        m, bias=m.bias * m.scales[:, 0]
    ),
    "{} nothing but its bias": lambda m: replace(
        m, elements=torch.zeros_like(m.elements)
    ),
}
