"""What a search holds in memory does not grow with the layers of a large model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.evals.locate import measure_memory
from mxmoe.evals.locate.measure_memory import measure
from mxmoe.evals.locate.measure_memory import write_model
from mxmoe.reference.types import MoEConfig

# A search in a child of its own each.
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
    ),
]
SIZE, EXPERTS = 1024, 32
# One layer: E2M1 codes with their block scales, and in float32.
PREPARED = 3 * SIZE * SIZE * EXPERTS * 17 // 32
DECODED = 4 * 3 * SIZE * SIZE * EXPERTS


def test_a_layer_more_costs_its_prepared_bytes_and_is_never_decoded_whole(
    tmp_path: Path,
) -> None:
    config = MoEConfig(hidden=SIZE, intermediate=SIZE, experts=EXPERTS, top_k=4)
    found = {}
    for layers in (1, 3):
        write_model(tmp_path / str(layers), config, layers)
        last = layers - 1
        one = measure(tmp_path / str(layers), 8, last, trace=True)
        assert one.place == (last, "gate_up", 0), one.said
        found[layers] = one.private
    assert found[3] - found[1] < 2 * PREPARED + DECODED / 2


def test_the_documented_command_prints_the_place_and_both_peaks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = "--experts 4 --layers 2 --tokens 8 --size 96 --no-trace"
    monkeypatch.setattr(sys, "argv", ["measure_memory", *words.split()])
    app = typer.Typer()
    app.command()(measure_memory.main)
    app(standalone_mode=False)
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("e4k4h96i96, layers 2, tokens 8, no trace: peak ")
    assert "without mapped files" in line
    assert line.endswith("; found layer 1, stage gate_up, expert 0")
