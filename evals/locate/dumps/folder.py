"""A folder of dumped stages: ``layer<N>.safetensors``, one file a layer.

Tensors are read one at a time. Names, dtypes, shapes and sizes are checked in the
header before anything is allocated; nothing is unpickled, and a file that is a link out
of the folder is not followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import safe_open

from mxmoe.evals.locate.checksums import Checksums
from mxmoe.evals.locate.checksums import checksums
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import STAGES

INPUT = "hidden_states"
NAMES = (INPUT, *STAGES)
"""In data-flow order."""
ROWS = ".rows"
"""``down.rows`` holds (token, slot) of each row of ``down``."""

_FILE = re.compile(r"layer([0-9]{1,4})\.safetensors")
_FLOATING = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_WHOLE = {"I32": torch.int32, "I64": torch.int64}
# One stage of one layer: `gate_up` of 2**16 tokens of gpt-oss in float32 is 6 GB.
LARGEST_BYTES = 2**33
# Rows that are hashed at a time.
_PART = 256


@dataclass(frozen=True)
class Entry:
    """A tensor as the header describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class LayerDump:
    """One layer's file; `entries` of the names in `NAMES`, and of their rows."""

    path: Path
    number: int
    entries: dict[str, Entry]

    @property
    def names(self) -> tuple[str, ...]:
        """The dumped stages in data-flow order."""
        return tuple(name for name in NAMES if name in self.entries)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, whole."""
        with _open(self.path) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def checksums(self, name: str) -> Checksums:
        """Of one tensor, which is read in parts."""
        return checksums(self._parts(name))

    def _parts(self, name: str) -> Iterator[torch.Tensor]:
        with _open(self.path) as file:
            whole = file.get_slice(name)
            for first in range(0, self.entries[name].shape[0], _PART):
                yield whole[first : first + _PART]


def open_dump(folder: Path) -> dict[int, LayerDump]:
    """The layers of a folder by number; `BadInput` for anything but such a folder."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: expected a folder of dumped stages, found none")
    home = folder.resolve()
    found: dict[int, LayerDump] = {}
    for path in sorted(folder.iterdir()):
        match = _FILE.fullmatch(path.name)
        if match is None:
            continue
        if path.resolve().parent != home:
            raise BadInput(f"{path}: expected a file of this folder, found a link")
        number = int(match[1])
        if number in found:
            raise BadInput(
                f"{path}: expected one file a layer, found {found[number].path.name}"
            )
        found[number] = _layer(path, number)
    if not found:
        raise BadInput(f"{folder}: expected layer0.safetensors, ..., found none")
    return dict(sorted(found.items()))


def _layer(path: Path, number: int) -> LayerDump:
    entries = {}
    with _open(path) as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            stage = name.removesuffix(ROWS)
            if stage not in NAMES:
                raise BadInput(
                    f"{path}: expected tensors from {', '.join(NAMES)}, "
                    f"found {name!r:.80}"
                )
            header = file.get_slice(name)
            whole = name.endswith(ROWS) or name == "ids"
            kinds = _WHOLE if whole else _FLOATING
            if header.get_dtype() not in kinds:
                raise BadInput(
                    f"{path}: {name}: expected {' or '.join(kinds)}, "
                    f"found {header.get_dtype()}"
                )
            entry = Entry(tuple(header.get_shape()), kinds[header.get_dtype()])
            _check_size(path, name, entry)
            entries[name] = entry
    if not entries:
        raise BadInput(f"{path}: expected tensors from {', '.join(NAMES)}, found none")
    return LayerDump(path=path, number=number, entries=entries)


def _check_size(path: Path, name: str, entry: Entry) -> None:
    size = torch.Size(entry.shape).numel() * entry.dtype.itemsize
    if size > LARGEST_BYTES:
        raise BadInput(
            f"{path}: {name}: expected at most {LARGEST_BYTES} bytes, found {size}"
        )
    if len(entry.shape) not in (2, 3) or 0 in entry.shape:
        raise BadInput(
            f"{path}: {name}: expected rows of values, found {list(entry.shape)}"
        )


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{path}: expected a whole safetensors file, found {error}"
        ) from error
