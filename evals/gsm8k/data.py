"""The questions of GSM8K: from a folder, a file or the hub, and their hash.

Cobbe et al., "Training Verifiers to Solve Math Word Problems" (2021). They are no part
of this package: `--data`, the variable `MXMOE_GSM8K`, or the hub at one revision.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.reference.errors import BadInput

VARIABLE = "MXMOE_GSM8K"
HUB = "openai/gsm8k"
# A revision that others pin too (huggingface/lighteval's task gsm8k).
REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"
# The files have 0.7 and 4.2 MB: what is larger is something else.
_LARGEST = 64 * 2**20  # bytes
_GOLD = re.compile(r"#### -?[\d,.]*\d")


@dataclass(frozen=True)
class Row:
    """A question and its worked answer, which ends in "#### N"."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Gsm8k:
    """test : what is asked. train : where few-shots come from. origin : of both."""

    test: tuple[Row, ...]
    train: tuple[Row, ...]
    origin: str

    @property
    def sha256(self) -> str:
        """Of the questions and answers of `test`; see `rows_sha256`."""
        return rows_sha256(self.test)


def read_gsm8k(data: Path | None = None) -> Gsm8k:
    """From `data`, else from the folder or file in `MXMOE_GSM8K`, else from the hub.

    A folder holds test.jsonl and train.jsonl, one {"question", "answer"} a line; a file
    is the test, and train.jsonl lies beside it. Raises `BadInput` for anything else,
    and where the hub cannot be reached.
    """
    where = data or (Path(found) if (found := os.environ.get(VARIABLE)) else None)
    if where is None:
        return _from_hub()
    test = where / "test.jsonl" if where.is_dir() else where
    return Gsm8k(
        test=_read(test), train=_read(test.with_name("train.jsonl")), origin=str(where)
    )


def rows_sha256(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows in order, each as one line of JSON in ASCII.

    The texts are hashed, not the file: spaces between JSON's tokens, or parquet in its
    place, do not change it.
    """
    found = hashlib.sha256()
    for row in rows:
        line = json.dumps({"question": row.question, "answer": row.answer})
        found.update(line.encode("ascii") + b"\n")
    return found.hexdigest()


def _read(path: Path) -> tuple[Row, ...]:
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise BadInput(f"{path}: expected at most {_LARGEST} bytes, found {size}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{path}: expected GSM8K's questions, found {error}") from error
    return _rows(map(_parsed, lines), str(path))


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error


def _rows(found: Iterable[Any], where: str) -> tuple[Row, ...]:
    rows = []
    for number, row in enumerate(found, 1):
        texts = [row.get(k) for k in ("question", "answer")] if _is_map(row) else []
        if len(texts) != 2 or not all(isinstance(t, str) and t for t in texts):
            raise BadInput(
                f"{where}:{number}: expected a question and its answer, "
                f"found {row!r:.80}"
            )
        if not _GOLD.search(texts[1]):
            raise BadInput(
                f'{where}:{number}: expected an answer with "#### N", '
                f"found {texts[1]!r:.80}"
            )
        rows.append(Row(*texts))
    if not rows:
        raise BadInput(f"{where}: expected questions, found none")
    return tuple(rows)


def _is_map(row: object) -> bool:
    return isinstance(row, Mapping)


def _from_hub() -> Gsm8k:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise BadInput(
            f"gsm8k: expected --data, {VARIABLE} or the extra 'eval' for the hub, "
            f"found no {error.name}"
        ) from error
    try:
        found = datasets.load_dataset(HUB, "main", revision=REVISION)
    # datasets, huggingface_hub and requests each have their own words for no network.
    except Exception as error:
        raise BadInput(
            f"gsm8k: expected --data, {VARIABLE} or the hub's {HUB}, "
            f"found {type(error).__name__}: {error}"
        ) from error
    rows = {name: _rows(found[name], f"{HUB} {name}") for name in ("test", "train")}
    return Gsm8k(**rows, origin=f"{HUB}@{REVISION}")
