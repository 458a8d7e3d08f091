"""One run, one directory: what every command writes and every report reads.

    runs/<id>/run.json         versions, device, candidates, configuration, result
              verdicts.jsonl   one line a check, appended as it ends
              layers.*.jsonl   `mxmoe verify`: one line a layer, see `layer_lines`
              faults.jsonl     `mxmoe faults`: one line a fault and seed
              answers.jsonl    the gate: one line a question
              bench.csv        the benchmarks
              bundles/<id>/    one failure each, see `bundles`

Schema version 1. A reader refuses other versions. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from datetime import UTC
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mxmoe.conformance.escape import write_csv
from mxmoe.conformance.judging.experts_reached import Reached
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput

SCHEMA = 1

# Variables that change which kernels run or how they compute; nothing else of the
# environment is written down.
ENVIRONMENT = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "MXMOE_CANDIDATE",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTHONSAFEPATH",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TRITON_DEFAULT_FP_FUSION",
    "TRITON_INTERPRET",
)
_PACKAGES = (
    "mxmoe-conformance",
    "torch",
    "triton",
    "transformers",
    "hypothesis",
    "pytest",
    "safetensors",
    "numpy",
    "tensorrt_llm",
    "flashinfer-python",
)
# Where Linux shows the version of the loaded kernel module.
_NVIDIA_DRIVER = Path("/sys/module/nvidia/version")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The largest error / allowed of one stage in one configuration.

    configuration : the first two words of a case, ``e4k2h64i96/tp2r1``.
    """

    stage: str
    configuration: str
    worst: float


@dataclass(frozen=True, kw_only=True)
class VerdictLine:
    """One check of one candidate, as it stands in ``verdicts.jsonl``.

    worst : largest error / allowed that was seen. measured : the same in parts.
    reached : the experts visited where the output was right. examples : cases judged.
    """

    check: str
    candidate: str
    level: str
    verdict: Verdict
    reason: str = ""
    text: str = ""
    case: str | None = None
    worst: float | None = None
    measured: tuple[Measured, ...] = ()
    reached: tuple[Reached, ...] = ()
    examples: int | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    bundle: str | None = None


@dataclass(frozen=True)
class Run:
    """A run directory, read back."""

    folder: Path
    run: Mapping[str, Any]
    verdicts: tuple[VerdictLine, ...] = field(default=())


class RunWriter:
    """Writes one run directory; lines are flushed as they come."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(
                f"{folder}: expected an empty or absent folder, found content"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._run: dict[str, Any] = {"schema": SCHEMA, "id": folder.name}
        self._inputs: dict[tuple[str, ...], Path] = {}

    @classmethod
    def reopen(cls, folder: Path) -> RunWriter:
        """The writer of a run that was begun before; `BadInput` if it is none."""
        writer = cls.__new__(cls)
        writer.folder, writer._run = folder, _read_facts(folder)
        writer._inputs = {}
        return writer

    @property
    def facts(self) -> Mapping[str, Any]:
        """What ``run.json`` holds."""
        return self._run

    def describe(self, **facts: Any) -> None:
        """Add facts to ``run.json`` and write it, whole, through a rename."""
        self._run |= facts
        partial = self.folder / "run.json.partial"
        partial.write_text(json.dumps(self._run, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.folder / "run.json")

    def verdict(self, line: VerdictLine) -> None:
        """Append one line to ``verdicts.jsonl``."""
        with (self.folder / "verdicts.jsonl").open("a", encoding="utf-8") as file:
            facts = asdict(line) | {"worst": json_number(line.worst)}
            for part in facts["measured"]:
                part["worst"] = json_number(part["worst"])
            file.write(json.dumps(facts, allow_nan=False) + "\n")

    def bench(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Write ``bench.csv``: one line for each repetition that was timed."""
        with (self.folder / "bench.csv").open(
            "w", encoding="utf-8", newline=""
        ) as file:
            write_csv(file, header, rows)

    def bundle(
        self,
        facts: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        *,
        inputs_key: tuple[str, ...] = (),
        inputs: Callable[[], Mapping[str, torch.Tensor]] | None = None,
    ) -> str:
        """Write a bundle, data only; returns its path relative to the run.

        Equal inputs (by their key) are built and stored once: many tensors of one
        layer can be wrong.
        """
        text = json.dumps({"schema": SCHEMA, **facts}, indent=2, allow_nan=False) + "\n"
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        folder = self.folder / "bundles" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "case.json").write_text(text, encoding="utf-8")
        _save(tensors, folder / "tensors.safetensors")
        if inputs is not None:
            path = folder / "inputs.safetensors"
            before = self._inputs.setdefault(inputs_key, path)
            if before == path or not _linked(before, path):
                _save(inputs(), path)
        return f"bundles/{name}"


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    dense = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    save_file(dense, path)


def _linked(existing: Path, path: Path) -> bool:
    """Whether `path` is now another name of the file `existing`."""
    try:
        path.unlink(missing_ok=True)
        os.link(existing, path)
    except OSError:
        return False
    return True


def open_run(folder: Path) -> RunWriter:
    """A new run directory; `BadInput` if it has content or cannot be written."""
    try:
        return RunWriter(folder)
    except OSError as error:
        raise BadInput(
            f"{folder}: expected a folder that can be written, {error.strerror}"
        ) from error


def json_number(value: float | None) -> float | str | None:
    """JSON has no Infinity and no NaN: they become strings, which `float` reads."""
    return value if value is None or math.isfinite(value) else str(value)


def new_run_id() -> str:
    """``20261122-134501-4711``: sorts by time, unique on a machine."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"


def describe_machine() -> dict[str, Any]:
    """Versions, device and the allow-listed environment."""
    cuda = torch.cuda.is_available()
    return {
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "platform": f"{sys.platform} {platform.machine()}",
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "sm": "".join(map(str, torch.cuda.get_device_capability())) if cuda else None,
        "driver": _driver(),
        "environment": {n: os.environ[n] for n in ENVIRONMENT if n in os.environ},
    }


def _driver() -> str | None:
    try:
        return _NVIDIA_DRIVER.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_run(folder: Path | str) -> Run:
    """Read a run directory back; `BadInput` if it is not one, or of another schema."""
    folder = Path(folder)
    facts = _read_facts(folder)
    return Run(folder, facts, tuple(_read_verdicts(folder / "verdicts.jsonl")))


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"{folder}: expected a run directory, found no run.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{folder / 'run.json'}: expected JSON, found {error}"
        ) from error
    if not isinstance(run, dict) or run.get("schema") != SCHEMA:
        found = run.get("schema") if isinstance(run, dict) else type(run).__name__
        raise BadInput(
            f"{folder / 'run.json'}: expected schema {SCHEMA}, found {found!r}"
        )
    return run


def _read_verdicts(path: Path) -> list[VerdictLine]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected verdict lines, found {error}") from error
    return [
        _read_verdict(text, f"{path}:{number}")
        for number, text in enumerate(lines, 1)
        if text or number < len(lines)
    ]


def _read_verdict(text: str, where: str) -> VerdictLine:
    try:
        found = json.loads(text)
        found["verdict"] = Verdict(found["verdict"])
        found["notes"] = tuple(found["notes"])
        if found["worst"] is not None:
            found["worst"] = float(found["worst"])
        found["measured"] = tuple(
            Measured(**{**part, "worst": float(part["worst"])})
            for part in found.get("measured", ())
        )
        found["reached"] = tuple(map(Reached.from_json, found.get("reached", ())))
        return VerdictLine(**found)
    except KeyError as error:
        raise BadInput(f"{where}: expected a verdict, found no {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"{where}: expected a verdict, found {error}") from error
