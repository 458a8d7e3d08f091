"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

HOSTILE = Path(__file__).parent / "hostile.json"
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
def hostile() -> dict[str, str]:
    """What a name or a model may contain, by what is wrong with it."""
    found = json.loads(HOSTILE.read_text(encoding="ascii"))
    return {
        name: text if isinstance(text, str) else text["text"] * text["repeat"]
        for name, text in found.items()
    }
