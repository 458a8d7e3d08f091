"""What a wrong output looks like: by expert and column, by size, by token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from mxmoe.evals.report.document import Picture
from mxmoe.evals.report.pictures import svg
from mxmoe.evals.report.pictures.grid import RATIO_LEGEND
from mxmoe.evals.report.pictures.grid import by_ratio
from mxmoe.evals.report.pictures.grid import draw_grid
from mxmoe.evals.report.pictures.grid import shrink

Numbers = NDArray[np.float64]

# Above this a linear axis would put every honest residual into one bar.
_LINEAR = 3.0
_BARS = 31
# Decades: below it no error is worth a bar of its own.
_LOWEST = -4


def number_pictures(tensors: Mapping[str, torch.Tensor]) -> tuple[Picture, ...]:
    """Pictures of ``found`` against ``expected`` within ``allowed``.

    All three are [t, w] or [t, k, w]. Empty where one is missing, or they do not fit.
    """
    if not {"found", "expected", "allowed"} <= tensors.keys():
        return ()
    found, expected, allowed = (
        tensors[name].double().numpy() for name in ("found", "expected", "allowed")
    )
    if expected.ndim not in (2, 3) or not expected.size:
        return ()
    if allowed.shape != expected.shape or found.size != expected.size:
        return ()
    found = found.reshape(expected.shape)
    with np.errstate(all="ignore"):
        signed = np.where(found == expected, 0.0, (found - expected) / allowed)
    signed = np.where(np.isfinite(found), signed, np.inf)
    ids = tensors.get("routing.ids")
    experts = None if ids is None else _experts(ids.numpy(), expected.ndim)
    width = expected.shape[-1]
    signed = signed.reshape(-1, width)
    if experts is None or len(experts) != len(signed):
        return (_by_token(np.abs(signed)), _sizes(signed))
    return (
        _by_expert(np.abs(signed), experts),
        _sizes(signed),
        _by_token(np.abs(signed)),
    )


def _experts(ids: NDArray[np.int32], dimensions: int) -> NDArray[np.int32]:
    """[rows, k]: the experts whose work is in each row."""
    return ids.reshape(-1, 1) if dimensions == 3 else ids


def _by_expert(ratio: Numbers, experts: NDArray[np.int32]) -> Picture:
    names = sorted({int(e) for e in experts.flatten() if e >= 0})
    rows = np.stack([ratio[(experts == e).any(axis=1)].max(axis=0) for e in names])
    worst = rows.max(axis=1)
    bad = [f"{e} ({_said(w)})" for e, w in zip(names, worst, strict=True) if w > 1]
    says = (
        f"Error / bound of {len(names)} expert{'s' * (len(names) != 1)} by column, the "
        "largest of the tokens that visit the expert. Beyond the bound: "
        f"{', '.join(bad[:8]) or 'none'}."
    )
    return Picture(
        title="Error / bound by expert and column",
        says=says,
        svg=draw_grid(
            by_ratio(shrink(rows)),
            says=says,
            rows=_thinned([str(e) for e in names], len(shrink(rows))),
            columns=("0", str(ratio.shape[1] - 1)),
            across="column",
            down="expert",
            legend=RATIO_LEGEND,
        ),
        data={"experts": names, "worst": [_json(float(w)) for w in worst]},
    )


def _by_token(ratio: Numbers) -> Picture:
    bad = ratio > 1
    says = (
        f"{int(bad.sum())} of {bad.size} elements are beyond the bound, in "
        f"{int(bad.any(axis=1).sum())} of {len(bad)} rows and "
        f"{int(bad.any(axis=0).sum())} of {bad.shape[1]} columns."
    )
    shown = shrink(ratio)
    return Picture(
        title="Which elements are out of bound",
        says=says,
        svg=draw_grid(
            by_ratio(shown),
            says=says,
            rows=_thinned([str(n) for n in range(len(ratio))], len(shown)),
            columns=("0", str(ratio.shape[1] - 1)),
            across="column",
            down="token or slot",
            legend=RATIO_LEGEND,
        ),
        data={"beyond": int(bad.sum()), "of": int(bad.size)},
    )


def _sizes(signed: Numbers) -> Picture:
    finite = signed[np.isfinite(signed)]
    lost = signed.size - finite.size
    away = f" {lost} are not finite." if lost else ""
    if not finite.size:
        says = f"All {signed.size} errors are not finite."
        empty = svg.svg(40, says, [svg.text(10, 24, says)])
        return Picture(title="Sizes of the errors", says=says, svg=empty)
    if np.abs(finite).max() <= _LINEAR:
        counts, edges = np.histogram(finite, _BARS, (-_LINEAR, _LINEAR))
        mean, spread = float(finite.mean()), float(finite.std())
        says = (
            f"Residuals in units of the bound: mean {mean:.2g}, standard deviation "
            f"{spread:.2g}. An honest rounding is centred at 0, far inside of 1.{away}"
        )
        names = [f"{edge:.3g}" for edge in edges]
        beyond = [abs(lo + hi) / 2 > 1 for lo, hi in _pairs(edges)]
        title = "Residuals in units of the bound"
    else:
        sizes = np.log10(np.maximum(np.abs(finite), 10.0**_LOWEST))
        top = max(1, math.ceil(sizes.max()))
        counts, edges = np.histogram(sizes, (top - _LOWEST) * 2, (_LOWEST, top))
        says = (
            f"Errors in units of the bound: median {_said(10 ** np.median(sizes))}, "
            f"largest {_said(10 ** sizes.max())}; right of 1 is out of bound.{away}"
        )
        names = [f"1e{edge:g}" for edge in edges]
        beyond = [lo >= 0 for lo, _ in _pairs(edges)]
        title = "Sizes of the errors in units of the bound"
    return Picture(
        title=title,
        says=says,
        svg=_bars(counts, names, beyond, says),
        data={"counts": counts.tolist(), "edges": names},
    )


def _pairs(edges: Numbers) -> list[tuple[float, float]]:
    return list(pairwise(edges.tolist()))


def _bars(
    counts: NDArray[np.int64], names: list[str], beyond: list[bool], says: str
) -> str:
    left, top, height = 40.0, 10.0, 150.0
    width = (svg.WIDTH - left - 12) / len(counts)
    most = int(counts.max())
    body = [svg.text(left - 4, top + 8, str(most), anchor="end")]
    body.append(svg.text(left - 4, top + height, "0", anchor="end"))
    for number, count in enumerate(counts):
        size = height * int(count) / most
        x, y = left + number * width, top + height - size
        kind = "b1" if beyond[number] else "h4"
        body.append(svg.rect(x + 0.5, y, width - 1, size, kind))
        if beyond[number]:
            body.append(svg.rect(x + 0.5, y, width - 1, size, "hatched"))
    body.append(svg.line(left, top + height, svg.WIDTH - 12, top + height, "axis"))
    step = max(2, len(names) // 12 * 2)
    for number in range(0, len(names), step):
        x = left + number * width
        body.append(svg.text(x, top + height + 15, names[number], anchor="middle"))
    body.append(svg.text(left, top + height + 34, "solid: within the bound"))
    body.append(
        svg.text(svg.WIDTH - 12, top + height + 34, "hatched: beyond", anchor="end")
    )
    return svg.svg(top + height + 42, says, body)


def _thinned(names: list[str], count: int) -> list[str]:
    return [names[number * len(names) // count] for number in range(count)]


def _said(value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.3g}" if value < 1000 else f"{value:.0e}".replace("e+0", "e")


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
