"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "conformance" / "golden" / "trtllm_gen.npz"

# Triton is a dependency on Linux only.
collect_ignore_glob = (
    [] if importlib.util.find_spec("triton") else ["test_triton_moe_*", "triton_moe"]
)


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Vectors made by third-party code; see conformance/golden/README.md."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def real_gsm8k() -> Path:
    """The folder of GSM8K's real questions, which are no part of this project."""
    shared = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
    folder = Path(os.environ.get("MXMOE_GSM8K") or shared)
    if not (folder / "test.jsonl").exists():
        pytest.skip("GSM8K's test.jsonl is not here; MXMOE_GSM8K names its folder")
    return folder


@pytest.fixture(scope="session")
def write_gsm8k() -> Callable[[Path], Path]:
    """Writes made-up questions in GSM8K's form into a folder: 3 to ask, 6 to train."""

    def write(folder: Path) -> Path:
        for name, count in (("test", 3), ("train", 6)):
            rows = [
                {
                    "question": f"{name}: a crate has {n} jars, {n + 2} come. Now?",
                    "answer": f"{n}+{n + 2}=<<{n}+{n + 2}={2 * n + 2}>>\n"
                    f"#### {2 * n + 2}",
                }
                for n in range(10, 10 + count)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        return folder

    return write
