"""``mxmoe bench moe`` on a CPU and tiny shapes: who is timed, who is refused, why."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mxmoe.conformance.commands.main import main
from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.moe_contest import triton_kernels_copy
from mxmoe.evals.moe_contest.ceilings import Ceilings
from mxmoe.evals.moe_contest.clock import seconds_in_turn
from mxmoe.evals.moe_contest.contestant import Unavailable
from mxmoe.evals.moe_contest.triton_kernels_copy import copy_package
from mxmoe.evals.moe_contest.workload import make_workload
from mxmoe.reference.types import MoEConfig

TINY = MoEConfig(hidden=64, intermediate=96, experts=8, top_k=4)
CPU = torch.device("cpu")

# A right candidate, and a place for a fault in each of its two functions.
CANDIDATE = """
import torch
from mxmoe.kernels.torch_dense import TorchDense

class Candidate(TorchDense):
    name = "mine"
    calls = 0

    def prepare(self, weights, config, shard, device):
        p = super().prepare(weights, config, shard, device)
        {prepare}
        return p

    def forward_fused(self, prepared, x, router_weight, router_bias, top_k):
        self.calls += 1
        out = super().forward_fused(prepared, x, router_weight, router_bias, top_k)
        {forward}
        return out

candidate = Candidate()
"""


def bench(
    tmp_path: Path, *options: str, prepare: str = "", forward: str = ""
) -> tuple[ExitCode, Path]:
    """The exit code of the command on a candidate with these faults, and its run."""
    file = tmp_path / "mine.py"
    file.write_text(CANDIDATE.format(prepare=prepare, forward=forward))
    return command(tmp_path, "--candidate", str(file), *options)


def command(tmp_path: Path, *options: str) -> tuple[ExitCode, Path]:
    run = tmp_path / "run"
    shape = ("--experts", "8", "--hidden", "64", "--intermediate", "96")
    small = (*shape, "--device", "cpu", "--tokens", "1,3,70", "--replays", "2")
    with pytest.raises(SystemExit) as caught:
        main(["bench", "moe", *small, "--run-dir", str(run), *options])
    assert isinstance(caught.value.code, int)
    return ExitCode(caught.value.code), run


def cells(run: Path, contestant: str) -> dict[int, dict[str, str]]:
    """Lines of moe.csv by tokens."""
    with (run / "moe.csv").open(encoding="utf-8", newline="") as file:
        lines = [x for x in csv.DictReader(file) if x["contestant"] == contestant]
    return {int(line["tokens"]): line for line in lines}


def timed(run: Path, contestant: str) -> set[int]:
    """Token counts that have replays in bench.csv, and a median in moe.csv."""
    with (run / "bench.csv").open(encoding="utf-8", newline="") as file:
        replayed = {
            int(line["tokens"])
            for line in csv.DictReader(file)
            if line["contestant"] == contestant
        }
    found = cells(run, contestant)
    assert replayed == {n for n, line in found.items() if line["median_us"]}
    assert replayed == {n for n, line in found.items() if not line["refused"]}
    return replayed


def test_who_is_right_is_timed_beside_the_floor(tmp_path, capsys) -> None:
    code, run = bench(tmp_path, "--json")
    said = capsys.readouterr().out.splitlines()
    assert code == ExitCode.PASS
    found: dict[str, Any] = json.loads(said[-1])
    assert [row["tokens"] for row in found["rows"]] == [1, 3, 70]
    copy, matmul = (
        found["ceilings"][name]
        for name in ("copy_bytes_per_second", "matmul_flops_per_second")
    )
    for row in found["rows"]:
        floor = 1e6 * max(row["weight_bytes"] / copy, row["flops"] / matmul)
        assert row["floor_us"] == pytest.approx(floor)
        assert set(row["contestants"]) == {"mine", "dequant_bf16"}
        for cell in row["contestants"].values():
            assert 0 < cell["quartile1_us"] <= cell["median_us"] <= cell["quartile3_us"]
            assert cell["floor_fraction"] == pytest.approx(floor / cell["median_us"])
            assert 0 < cell["worst"] <= 1
        assert "ratio" not in row
    assert timed(run, "mine") == timed(run, "dequant_bf16") == {1, 3, 70}
    for warps in (4, 8):
        line = f"unavailable: triton_kernels.w{warps}: needs a CUDA device, found cpu"
        assert line in said
    saved = read_run(run).run
    assert (saved["command"], saved["rows"]) == ("bench moe", found["rows"])
    table = (run / "table.txt").read_text().splitlines()
    assert said[: len(table)] == table
    assert table[-1].startswith("unavailable: triton_kernels")


def test_one_token_of_nan_is_refused(tmp_path, capsys) -> None:
    code, run = bench(tmp_path, forward="if len(x) == 70: out[69] = torch.nan")
    assert code == ExitCode.FAIL
    line = "refused: mine at 70 tokens: not finite: 64 of 4480 elements, first in token"
    assert f"{line} 69" in capsys.readouterr().out
    assert timed(run, "mine") == {1, 3}
    assert timed(run, "dequant_bf16") == {1, 3, 70}


def test_a_bias_in_another_row_order_is_refused(tmp_path, capsys) -> None:
    swapped = "p['gate_up_bias'] = p['gate_up_bias'].view(8, -1, 2).flip(2).flatten(1)"
    code, run = bench(tmp_path, prepare=swapped)
    assert code == ExitCode.FAIL
    assert timed(run, "mine") == set()
    said = capsys.readouterr().out
    for tokens in (1, 3, 70):
        assert f"refused: mine at {tokens} tokens: out of bound: token " in said
    assert cells(run, "mine")[70]["refused"] in said
    assert float(cells(run, "mine")[70]["worst"]) > 1


def test_an_output_that_goes_wrong_while_it_is_timed_is_refused(tmp_path) -> None:
    """Right when it is judged, wrong when it is fast: the end counts too."""
    code, run = bench(tmp_path, forward="if self.calls > 4: out += 10")
    assert code == ExitCode.FAIL
    assert "out of bound" in cells(run, "mine")[1]["refused"]
    assert timed(run, "mine") == set()


@pytest.mark.parametrize(
    ("fault", "tokens", "said"),
    [
        ("if len(x) == 3: raise RuntimeError('no tile')", {1, 70}, "no tile"),
        ("if len(x) == 3: out = out[:2]", {1, 70}, "expected torch.bfloat16 (3, 64)"),
        ("out = None", set(), "returned NoneType, expected a tensor (70, 64)"),
    ],
)
def test_a_crash_or_a_wrong_kind_costs_only_its_own_cells(
    tmp_path, capsys, fault, tokens, said
) -> None:
    code, run = bench(tmp_path, forward=fault)
    assert code == ExitCode.FAIL
    assert timed(run, "mine") == tokens
    assert said in capsys.readouterr().out


def test_a_preparation_that_raises_is_refused_everywhere(tmp_path, capsys) -> None:
    code, run = bench(tmp_path, prepare="raise ValueError('no such shape')")
    assert code == ExitCode.FAIL
    assert timed(run, "mine") == set()
    assert "prepare raised ValueError: no such shape" in capsys.readouterr().out


def test_a_candidate_without_forward_fused_takes_no_part(tmp_path, capsys) -> None:
    (tmp_path / "half.py").write_text(
        "class C:\n    name = 'half'\n    def prepare(self, weights, config, shard, "
        "device):\n        return {}\ncandidate = C()\n"
    )
    code, run = command(tmp_path, "--candidate", str(tmp_path / "half.py"))
    assert code == ExitCode.INVALID
    assert "unavailable: half: not observable: exposes no forward_fused" in (
        capsys.readouterr().out
    )
    assert timed(run, "dequant_bf16") == {1, 3, 70}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tokens", "4,two"), "--tokens: expected different numbers from 1"),
        (("--tokens", "0,1"), "--tokens: expected different numbers from 1"),
        (("--device", "no-such"), "device: expected one that is there"),
        (("--hidden", "33"), "hidden: expected a multiple of 32"),
        (("--top-k", "9"), "top_k: expected at most experts = 8"),
        (("--candidate", "no_such"), "no_such: expected path/file.py:attribute"),
    ],
)
def test_bad_options_exit_with_2_and_leave_no_run(
    tmp_path, capsys, options, said
) -> None:
    code, run = bench(tmp_path, *options)
    assert code == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert not run.exists()


def test_every_token_of_the_workload_has_a_clear_choice() -> None:
    load = make_workload(TINY, 200, 3, CPU)
    w = load.weights
    assert w.router_bias is not None
    logits = torch.nn.functional.linear(
        load.hidden_states, w.router_weight, w.router_bias
    )
    coarse = logits.topk(TINY.top_k).indices.sort(dim=1).values
    assert torch.equal(coarse, load.ids.long().sort(dim=1).values)
    assert load.load(1).experts == 4
    assert load.load(200).experts == 8


def test_the_floor_is_the_slower_of_reading_and_multiplying() -> None:
    """Of each of 4 experts: codes of 4 bits, a scale for 32, 192 + 64 biases."""
    load = make_workload(TINY, 1, 0, CPU).load(1)
    weights = 192 * 64 + 64 * 96
    assert load.weight_bytes == 4 * (weights // 2 + weights // 32 + 2 * 256)
    assert load.flops == 2 * 4 * weights
    slow_memory, slow_units = (
        Ceilings(
            copy_bytes_per_second=copy,
            matmul_flops_per_second=matmul,
            copied_bytes=1,
            matmul_size=1,
        )
        for copy, matmul in ((1e3, 1e12), (1e12, 1e3))
    )
    assert load.floor_seconds(slow_memory) == load.weight_bytes / 1e3
    assert load.floor_seconds(slow_units) == load.flops / 1e3


def test_contestants_are_replayed_in_turn() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = seconds_in_turn(calls, CPU, 5)
    assert order == list("abc") * (len(order) // 3)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(
        "abc", 5
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a package that has the places of triton_kernels to rewrite."""
    root = tmp_path / "there" / "triton_kernels"
    root.mkdir(parents=True)
    for rewrite in triton_kernels_copy.REWRITES:
        file = root / rewrite.file
        before = file.read_text() if file.exists() else ""
        file.write_text(f"{before}# begin\n{rewrite.found}# end\n")
    return root.parent


def test_triton_kernels_is_rewritten_in_a_copy_only(package, tmp_path) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in package.rglob("*.py"):
            archive.write(file, file.relative_to(package))
        archive.writestr("other/__init__.py", "")
    untouched = {f.name: f.read_text() for f in package.rglob("*.py")}
    for number, source in enumerate((package, wheel)):
        target = tmp_path / str(number)
        target.mkdir()
        copy_package(source, target)
        assert [f.name for f in target.iterdir()] == ["triton_kernels"]
        for rewrite in triton_kernels_copy.REWRITES:
            text = (target / "triton_kernels" / rewrite.file).read_text()
            assert rewrite.found not in text
            assert rewrite.instead in text
    assert untouched == {f.name: f.read_text() for f in package.rglob("*.py")}


def test_a_source_without_triton_kernels_is_named(tmp_path) -> None:
    with pytest.raises(Unavailable, match="expected a wheel or a folder that holds"):
        copy_package(tmp_path, tmp_path / "copy")


def test_a_package_that_does_not_import_is_one_sentence(package, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "triton_kernels", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (package / "triton_kernels" / "matmul.py").write_text("import no_such_module_here")
    with pytest.raises(Unavailable) as caught:
        triton_kernels_copy.import_triton_kernels(package)
    assert str(caught.value) == (
        "triton_kernels does not import: ModuleNotFoundError: "
        "No module named 'no_such_module_here'"
    )
    for name in [n for n in sys.modules if n.startswith("triton_kernels")]:
        monkeypatch.delitem(sys.modules, name)


def test_without_matplotlib_one_sentence_says_so(tmp_path, capsys, monkeypatch) -> None:
    for name in ["matplotlib", *sys.modules]:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "mxmoe.evals.moe_contest.roofline", raising=False)
    code, run = bench(tmp_path)
    assert code == ExitCode.PASS
    assert "no roofline.png: matplotlib is not installed" in capsys.readouterr().out
    assert not (run / "roofline.png").exists()


def test_with_matplotlib_there_is_a_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="extra: report")
    _, run = bench(tmp_path, forward="if len(x) == 3: out[0] = torch.nan")
    assert (run / "roofline.png").read_bytes().startswith(b"\x89PNG")
