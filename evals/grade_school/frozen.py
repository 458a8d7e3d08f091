"""The 1319 problems of the test, as many as GSM8K has, and their hash.

`python -m mxmoe.evals.grade_school.frozen` writes the file anew from the templates;
it must give the same bytes as long as nobody changes a template.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

from mxmoe.evals.grade_school.generate import frozen_problems
from mxmoe.evals.grade_school.problem import Problem
from mxmoe.reference.errors import BadInput

COUNT = 1319
SEED = 1
# Of the uncompressed lines.
SHA256 = "960122be1eee8558c84b7d1a313541d87423afc66242e2f12a18f59634a23df5"
PATH = Path(__file__).parent / "test.jsonl.gz"


def load_test_problems() -> list[Problem]:
    """The frozen problems, in order; `BadInput` if the file is not the frozen one."""
    lines = gzip.decompress(PATH.read_bytes())
    found = hashlib.sha256(lines).hexdigest()
    if found != SHA256:
        raise BadInput(f"{PATH.name}: expected SHA-256 {SHA256}, found {found}")
    rows = [json.loads(line) for line in lines.decode().splitlines()]
    return [Problem(row["question"], row["answer"]) for row in rows]


def make_lines() -> bytes:
    """The lines of the file, made from the templates."""
    made = frozen_problems(COUNT, SEED)
    return "".join(problem.json_line() + "\n" for problem in made).encode()


if __name__ == "__main__":
    PATH.write_bytes(gzip.compress(make_lines(), 9, mtime=0))
