"""The rows as text for people and as CSV for programs."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mxmoe.conformance import escape

CSV_HEADER = (
    *("tokens", "experts", "contestant"),
    *("median_us", "quartile1_us", "quartile3_us"),
    *("floor_us", "floor_fraction", "tflops", "ratio", "worst", "refused"),
)


def table_lines(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], candidate: str
) -> list[str]:
    """One line for each token count: median us and half the interquartile range."""
    titles = ["tokens", "experts", *(f"{name} us" for name in names)]
    titles += ["ratio", "floor us", "floor/time", "TFLOP/s"]
    lines = [titles] + [_words(row, names, candidate) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True))
        for line in lines
    ]
    for row in rows:
        for name in names:
            reason = row["contestants"][name].get("refused")
            if reason is not None:
                text.append(f"refused: {name} at {row['tokens']} tokens: {reason}")
    return text


def _words(row: Mapping[str, Any], names: Sequence[str], candidate: str) -> list[str]:
    ours = row["contestants"].get(candidate, {})
    return [
        str(row["tokens"]),
        str(row["experts"]),
        *(_time(row["contestants"][name]) for name in names),
        _number(row.get("ratio"), "{:.2f}"),
        f"{row['floor_us']:.1f}",
        _number(ours.get("floor_fraction"), "{:.2f}"),
        _number(ours.get("tflops"), "{:.1f}"),
    ]


def _time(figures: Mapping[str, Any]) -> str:
    if "refused" in figures:
        return "refused"
    spread = (figures["quartile3_us"] - figures["quartile1_us"]) / 2
    return f"{figures['median_us']:.1f} ±{spread:.1f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], candidate: str) -> None:
    """One line for each token count and contestant; a refused one has no times."""
    with path.open("w", encoding="utf-8", newline="") as file:
        escape.write_csv(file, CSV_HEADER, _csv_lines(rows, candidate))


def _csv_lines(
    rows: Sequence[Mapping[str, Any]], candidate: str
) -> Iterator[list[object]]:
    for row in rows:
        shared = {name: row[name] for name in ("tokens", "experts", "floor_us")}
        for name, figures in row["contestants"].items():
            line = shared | dict(figures) | {"contestant": name}
            if name == candidate and "ratio" in row:
                line["ratio"] = row["ratio"]
            yield [line.get(column) for column in CSV_HEADER]
