"""Options that several commands have, each with its one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunDir = Annotated[Path | None, typer.Option(metavar="DIR", help="default: runs/<id>")]
ResumedRunDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="gone on with if begun; default: runs/<id>"),
]
AsDocument = Annotated[
    bool, typer.Option("--json", help="one JSON document on standard output")
]
AsLine = Annotated[bool, typer.Option("--json", help="end with one line of JSON")]
AsOneLineOnly = Annotated[
    bool, typer.Option("--json", help="print one line of JSON only")
]
OwnDevice = Annotated[
    str | None, typer.Option(help="cpu or cuda. Default: the candidate's choice.")
]
