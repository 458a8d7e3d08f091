"""Files of lines that outlive a killed writer: a line counts once its end is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxmoe.reference.errors import BadInput


def append_line(path: Path, facts: Mapping[str, Any]) -> None:
    """Append one JSON object and its line end in one write."""
    text = json.dumps(facts, allow_nan=False) + "\n"
    with path.open("ab") as file:
        file.write(text.encode())


def cut_torn_line(path: Path) -> None:
    """Remove what a killed writer left behind its last whole line."""
    if path.exists():
        written = path.read_bytes()
        whole = written.rfind(b"\n") + 1
        if whole < len(written):
            with path.open("r+b") as file:
                file.truncate(whole)


def whole_lines(path: Path, what: str) -> Iterator[tuple[str, bytes]]:
    """(where, text) of each line that has its end; `BadInput` names `what`."""
    try:
        *whole, _torn = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BadInput(f"{path}: expected {what}, found {error}") from error
    for number, text in enumerate(whole, 1):
        yield f"{path}:{number}", text
