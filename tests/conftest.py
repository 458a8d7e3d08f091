"""Fixtures that several test files share."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mxmoe.conformance.bounds import fused as fused_bounds
from mxmoe.conformance.bounds import propagated as bounds
from mxmoe.conformance.judging import judge
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.why_numbers import layer_steps
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import append_answer
from mxmoe.evals.gate.ended import end
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import Routing

# Bars and pytest's own texts differ where `CI` is set: every machine tests the same.
os.environ.pop("CI", None)

HOSTILE = Path(__file__).parent / "hostile.json"
GOLDEN = Path(__file__).parents[1] / "conformance" / "golden" / "trtllm_gen.npz"

# pytest-xdist hands whole files out in this order: one of these begun last would keep
# one process busy while the others have nothing left to do.
LONGEST = (
    "test_outside.py",
    "test_conformance_no_false_alarms.py",
    "test_conformance_faults.py",
    "test_conformance_ranks.py",
    "test_triton_moe_interpreted.py",
    "test_readme.py",
    "test_why_numbers_hypotheses.py",
    "test_gate_grade_school.py",
    "test_verify_runs.py",
    "test_conformance_escape.py",
    "test_conformance_clean_cases.py",
    "test_import_rules.py",
    "test_conformance_expected.py",
    "test_why_numbers_laws.py",
    "test_why_numbers_roundings.py",
    "test_why_numbers_tiles.py",
    "test_why_numbers_told.py",
    "test_why_numbers_cost.py",
    "test_why_numbers_gathers.py",
    "test_why_numbers_ranks.py",
    "test_why_numbers_scopes.py",
)

# Triton is a dependency on Linux only.
collect_ignore_glob = (
    [] if importlib.util.find_spec("triton") else ["test_triton_moe_*", "triton_moe"]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; otherwise, and within a file, as collected."""
    place = {name: n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On small shapes more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def truths_once() -> Iterator[None]:
    """Truth and bound of equal inputs are computed once for all candidates.

    They depend on no candidate, and a trial draws the same cases for each.
    """
    judge_rank, known = bounds.judge_rank, dict[Any, Any]()

    def judge_once(*inputs: Any, **options: Any) -> Any:
        key = tuple(map(_content, (*inputs, *sorted(options.items()))))
        if key not in known:
            known[key] = judge_rank(*inputs, **options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (layer_steps, fused_bounds, judge):
            patch.setattr(module, "judge_rank", judge_once)
        yield


def _content(value: Any) -> Any:
    """Something that is equal for equal inputs only: bytes of tensors, not ids."""
    if isinstance(value, torch.Tensor):
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return value.dtype, value.shape, hashlib.blake2b(raw).digest()
    if isinstance(value, (ExpertWeights, Routing)):
        return tuple(map(_content, vars(value).values()))
    return tuple(map(_content, value)) if isinstance(value, tuple) else value


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


@pytest.fixture
def on_terminal() -> Callable[..., str]:
    """What `mxmoe` writes to a terminal, escape codes included; it must end with 0.

    Arguments, the folder where the user stands, `columns`, other variables.
    """
    return _on_terminal


def _on_terminal(
    arguments: Sequence[str], folder: Path, *, columns: int, **variables: str
) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    known = {n: v for n, v in os.environ.items() if n not in ("CI", "COLUMNS")}
    run = subprocess.Popen(
        [sys.executable, "-m", "mxmoe.conformance.commands.main", *arguments],
        cwd=folder,
        env=known | {"TERM": "xterm-256color"} | variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # EIO: the last writer has gone
            break
        if not read:
            break
        written += read
    os.close(ours)
    assert run.wait(timeout=60) == 0, written
    return written.decode()


@pytest.fixture
def write_gate_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run directory as `mxmoe gate` leaves it, with the marks given.

    The first argument names it; `correct` is by question; other keywords replace
    fields of the protocol, of the options or of the facts. An answer counts if all
    before it in the registered order are there too.
    """
    return functools.partial(_write_gate_run, tmp_path)


def _write_gate_run(
    folder: Path,
    name: str,
    correct: Mapping[int, bool],
    *,
    verdict: str = "pass",
    **others: Any,
) -> Path:
    protocol: dict[str, Any] = {
        "task": "grade_school",
        "task_version": "1",
        "model_sha256": "6bb3",
        "questions": 1319,
        "prompts_sha256": "da6e",
        "order_seed": 0,
        "few_shots": 0,
        "chat_template": False,
        "reasoning_effort": None,
        "temperature": 0.0,
        "output_tokens": 160,
        "stops": [],
        "extraction": "strict-match",
        "harness": "mxmoe",
    }
    options = {"candidate": "torch_dense", "fault": None, "dtype": "float32"}
    options |= {"batch": 64, "candidate_file": "c0de", "full": True}
    facts: dict[str, Any] = {
        "command": "gate",
        "started": "2026-11-25T17:00:00+00:00",
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        "driver": None,
        "questions_sha256": "9601",
        "template_sha256": None,
    }
    for key, value in others.items():
        place = next((p for p in (protocol, options) if key in p), facts)
        place[key] = value
    writer = RunWriter(folder / name)
    facts.setdefault("rule", {"asked": protocol["questions"], "least_correct": 1})
    writer.describe(**facts, protocol=protocol, options=options)
    for question, mark in correct.items():
        line = AnswerLine(
            question=question,
            prompt_sha256="",
            text="",
            extracted="",
            correct=mark,
            tokens=1,
            finish_reason="stop",
            finite=True,
            seconds=0.0,
        )
        append_answer(folder / name, line)
    end(writer, Conclusion(GateVerdict(verdict), ("said so",)))
    return folder / name
