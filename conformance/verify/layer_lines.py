"""``layers.*.jsonl``: what `mxmoe verify` found in each layer, one line a layer.

Each process of a run appends to a file of its own (``layers.0.jsonl``, ...), so that
nobody waits for a lock. A process that is killed while it writes leaves a line without
its end: readers leave it out, and the next writer of that file cuts it off. A layer
counts as finished when its line is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from mxmoe.conformance.suite import whole_lines
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class RankLine:
    """One rank of one layer.

    shard : the rank's label, ``tp8r7``. tensors : those that differ. text : what a
    person reads of a failure. digests : SHA-256 of each prepared tensor, where they
    were asked for. bytes : of all prepared tensors that were compared.
    prepare_seconds, compare_seconds : the candidate's time and ours.
    """

    shard: str
    verdict: Verdict
    tensors: tuple[str, ...] = ()
    text: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    bytes: int = 0
    prepare_seconds: float = 0.0
    compare_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LayerLine:
    """One layer, all ranks that were asked for, in order."""

    layer: int
    ranks: tuple[RankLine, ...]
    seconds: float

    @property
    def failed(self) -> tuple[RankLine, ...]:
        """The ranks that speak against the candidate."""
        return tuple(rank for rank in self.ranks if rank.verdict.failed)


def append_layer(folder: Path, process: int, line: LayerLine) -> None:
    """Append one whole line to the file of `process`."""
    whole_lines.append_line(_part(folder, process), asdict(line))


def cut_torn_line(folder: Path, process: int) -> None:
    """Remove what a killed writer of this file left behind its last whole line."""
    whole_lines.cut_torn_line(_part(folder, process))


def read_layers(folder: Path | str) -> dict[int, LayerLine]:
    """The finished layers of a run, by number; `BadInput` for lines of another kind."""
    found: dict[int, LayerLine] = {}
    for path in sorted(Path(folder).glob("layers.*.jsonl")):
        for where, text in whole_lines.whole_lines(path, "layer lines"):
            line = _read_line(text, where)
            found.setdefault(line.layer, line)
    return dict(sorted(found.items()))


def _part(folder: Path, process: int) -> Path:
    return folder / f"layers.{process}.jsonl"


def _read_line(text: bytes, where: str) -> LayerLine:
    try:
        found = json.loads(text)
        ranks = tuple(_read_rank(rank) for rank in found.pop("ranks"))
        line = LayerLine(ranks=ranks, **found)
        if type(line.layer) is not int or not isinstance(line.seconds, int | float):
            raise TypeError("a layer that is no number")
    except KeyError as error:
        raise BadInput(f"{where}: expected a layer, found no {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{where}: expected a layer, found {error}") from error
    return line


def _read_rank(found: dict[str, Any]) -> RankLine:
    verdict, tensors = Verdict(found.pop("verdict")), tuple(found.pop("tensors"))
    return RankLine(verdict=verdict, tensors=tensors, **found)
