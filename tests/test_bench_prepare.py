"""``mxmoe bench prepare`` on a tiny shape: its last line, its files, its exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from mxmoe.conformance.commands.main import main
from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.verdict import ExitCode
from mxmoe.kernels.trtllm_gen import bench_prepare

TINY = ("--experts", "2", "--hidden", "64", "--intermediate", "96", "--repeats", "3")


def bench(folder: Path, *options: str) -> ExitCode:
    """The command with `folder` as its run directory."""
    with pytest.raises(SystemExit) as caught:
        main(["bench", "prepare", *TINY, "--run-dir", str(folder), *options])
    assert isinstance(caught.value.code, int)
    return ExitCode(caught.value.code)


def test_json_ends_with_one_line_of_all_figures(tmp_path, capsys) -> None:
    options = ("--tp", "2", "--rank", "1", "--json")
    assert ExitCode.PASS == bench(tmp_path / "run", *options)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    prepared, copied, looped = (
        found[f"{what}_seconds"] for what in ("prepare", "copy", "engine_loop")
    )
    assert found["copy_fraction"] == pytest.approx(copied / prepared)
    assert found["speedup_vs_engine_loop"] == pytest.approx(looped / prepared)
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"] == torch.__version__
    assert (found["device"], found["shape"]) == ("cpu", "e2k1h64i96")
    # P = 128 lanes, H1 = 512, H2 = 128: weights, scales, biases, SwiGLU parameters.
    each = 256 * (256 + 16) + 128 * (64 + 4) + 4 * (256 + 128) + 4 * 3
    assert found["output_bytes"] == 2 * each


def test_every_repetition_stands_in_the_run_directory(tmp_path) -> None:
    bench(tmp_path / "run")
    assert read_run(tmp_path / "run").run["command"] == "bench prepare"
    with (tmp_path / "run" / "bench.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    named = {(line["what"], int(line["repetition"])) for line in lines}
    assert named == {
        (what, n) for what in ("prepare", "copy", "engine_loop") for n in range(3)
    }
    assert all(float(line["seconds"]) > 0 for line in lines)


def test_different_bytes_are_a_failure_and_are_not_timed(
    tmp_path, capsys, monkeypatch
) -> None:
    def wrong(*args: object, **options: object) -> dict[str, torch.Tensor]:
        found = original(*args, **options)
        found["fc2_scales"][0, 3, 1] ^= 1
        return found

    original = bench_prepare.engine_loop
    monkeypatch.setattr(bench_prepare, "engine_loop", wrong)
    assert ExitCode.FAIL == bench(tmp_path / "run", "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["differing"] == ["fc2_scales"]
    assert "copy_fraction" not in found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "no-such"), "device: expected one that is there"),
        (("--tp", "2", "--rank", "2"), "tp_rank: expected 0 to 1, found 2"),
        (("--mover", "triton"), "--mover: expected views, or triton with --device"),
        (("--hidden", "33"), "hidden: expected a multiple of 32"),
    ],
)
def test_bad_options_exit_with_2_and_leave_no_run(
    tmp_path, capsys, options, said
) -> None:
    assert ExitCode.USAGE == bench(tmp_path / "run", *options)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
