"""The scanned runs in SQLite: a cache for queries, rebuilt whenever it is asked for."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import astuple
from dataclasses import fields
from pathlib import Path

from mxmoe.evals.history.scan import Row
from mxmoe.evals.history.scan import Scanned
from mxmoe.reference.errors import BadInput

_KINDS = {"int": "INTEGER", "str": "TEXT"}
_COLUMNS = ", ".join(
    f"{field.name} {_KINDS[str(field.type)]} NOT NULL" for field in fields(Row)
)


def rebuild(path: Path, scanned: Scanned) -> None:
    """Write the database anew, whole, through a rename.

    Tables: `runs`, one line a run, as `Row`; `damaged` (folder, why). A reader sees the
    old one or the new one. `BadInput` where it cannot be written, or where there is a
    file that is no database.
    """
    if path.exists() and not _is_database(path):
        raise BadInput(
            f"{path}: expected a history's database or no file, found another file"
        )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(partial)) as connection, connection:
            connection.execute(f"CREATE TABLE runs ({_COLUMNS})")
            connection.execute("CREATE TABLE damaged (folder TEXT, why TEXT)")
            marks = ", ".join("?" for _ in fields(Row))
            connection.executemany(
                f"INSERT INTO runs VALUES ({marks})", map(astuple, scanned.rows)
            )
            connection.executemany("INSERT INTO damaged VALUES (?, ?)", scanned.damaged)
        partial.replace(path)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise BadInput(
            f"{path}: expected a database that can be written, found {error}"
        ) from error


def _is_database(path: Path) -> bool:
    # Of every SQLite file, and of none that somebody wrote by hand.
    with path.open("rb") as file:
        return file.read(16) in (b"SQLite format 3\0", b"")
