"""Candidates, a checkpoint and the command, for the tests of `mxmoe verify`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.commands.main import main
from mxmoe.reference.types import MoEConfig

SMALL = MoEConfig(hidden=64, intermediate=160, experts=2, top_k=1)
LAYERS = 4

# Prepares rightly, logs each call as "layer shard", and then does `{then}`.
CANDIDATE = """
import os, signal
from pathlib import Path
import torch
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.layouts import LAYOUTS

checkpoint = open_checkpoint({checkpoint!r})
biases = [checkpoint.layer(n).down_bias.clone() for n in range(checkpoint.layers)]

class candidate:
    name = "mine"
    capabilities = {{"layout": "trtllm_gen.v1", "shards": "any"}}

    def prepare(self, weights, config, shard, device):
        same = [torch.equal(bias, weights.down_bias) for bias in biases]
        layer = same.index(True) if True in same else None
        at = f"{{layer}} {{shard.label()}}"
        with open({log!r}, "a") as file:
            print(at, file=file)
        prepared = LAYOUTS["trtllm_gen.v1"].expected(weights, config, shard)
{then}
        return prepared
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers e2k1h64i160."""
    folder = tmp_path_factory.mktemp("verify") / "made"
    write_checkpoint(folder, config=SMALL, layers=LAYERS)
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkpoint of the same shape with other bytes."""
    write_checkpoint(tmp_path / "other", config=SMALL, layers=LAYERS, seed=1)
    return tmp_path / "other"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where candidates log what they prepare."""
    return tmp_path / "prepared.log"


@pytest.fixture
def candidate(checkpoint: Path, tmp_path: Path, log: Path) -> Callable[..., str]:
    """Writes a candidate that does `then` before it returns; gives its path."""

    def write(then: str = "", name: str = "mine.py") -> str:
        path = tmp_path / name
        body = textwrap.indent(textwrap.dedent(then), 8 * " ")
        path.write_text(
            CANDIDATE.format(checkpoint=str(checkpoint), log=str(log), then=body),
            encoding="utf-8",
        )
        return str(path)

    return write


@pytest.fixture
def arguments(checkpoint: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of most runs: all four ranks; further words come last and win."""

    def usual(*words: object, of: Path = checkpoint) -> list[str]:
        run = ("--run-dir", tmp_path / "run")
        return [str(w) for w in (of, "--layout", "trtllm_gen", "--tp", 4, *run, *words)]

    return usual


@pytest.fixture
def verify(
    arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command here; gives its exit code and all that it printed."""

    def run(*words: object, **options: Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["verify", *arguments(*words, **options)])
        printed = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, printed.out + printed.err

    return run


@pytest.fixture
def child() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with arguments, in a process of its own."""

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, words)],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
