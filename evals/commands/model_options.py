"""Options of the commands that put a candidate into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Fault = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="plant this fault first, as `mxmoe faults` names them"
    ),
]
TaskName = Annotated[str, typer.Option(help="grade_school or gsm8k")]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE",
        help="GSM8K: test.jsonl and train.jsonl; default: MXMOE_GSM8K, or the hub",
    ),
]
Dtype = Annotated[str, typer.Option(help="of the model: float32 or bfloat16")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto")]
Batch = Annotated[int, typer.Option(min=1, help="questions at once")]
