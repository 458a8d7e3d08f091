"""A gpt-oss folder on disk: which file holds which tensor, and one layer of it.

Tensors are memory-mapped by safetensors; shapes and dtypes are compared with
config.json from the headers alone, before any data is touched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pathlib import PurePosixPath

import torch
from safetensors import SafetensorError
from safetensors import safe_open

from mxmoe.reference.checkpoint.config import read_config
from mxmoe.reference.checkpoint.config import read_json
from mxmoe.reference.checkpoint.names import SPELLINGS
from mxmoe.reference.errors import BadInput
from mxmoe.reference.formats.e8m0 import NAN_BYTE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import expected_tensors

INDEX_NAME = "model.safetensors.index.json"

_HEADER_DTYPES = {"U8": torch.uint8, "BF16": torch.bfloat16}
_FLOATING = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened folder; no tensor data is read until `layer` is called.

    `files` maps each tensor name to the file that holds it; `spelling` maps the
    fields of `ExpertWeights` to the names used in this folder.
    """

    folder: Path
    config: MoEConfig
    layers: int
    files: Mapping[str, Path]
    spelling: Mapping[str, str]

    def layer(self, layer: int) -> ExpertWeights:
        """Layer `layer` (0-based), memory-mapped; `BadInput` if it is damaged."""
        if not 0 <= layer < self.layers:
            raise BadInput(
                f"{self.folder}: layer: expected 0 to {self.layers - 1}, found {layer}"
            )
        tensors: dict[str, torch.Tensor | None] = {
            "gate_up_bias": None,
            "down_bias": None,
            "router_bias": None,
        }
        for field in expected_tensors(self.config):
            tensors[field] = self._tensor(field, layer)
        weights = ExpertWeights(**tensors)  # type: ignore[arg-type]
        for field in ("gate_up_scales", "down_scales"):
            self._refuse_nan_scales(field, layer, getattr(weights, field))
        return weights

    def layer_bytes(self) -> int:
        """Bytes of one layer's experts and router, from shapes alone."""
        total = 0
        for shape, dtype in expected_tensors(self.config).values():
            total += torch.Size(shape).numel() * (1 if dtype == torch.uint8 else 2)
        return total

    def _tensor(self, field: str, layer: int) -> torch.Tensor:
        name = self.spelling[field].format(layer=layer)
        if name not in self.files:
            raise BadInput(
                f"{self.folder}: expected tensor {name}, found no file with it"
            )
        path = self.files[name]
        with _open(path) as file:
            if name not in file.keys():  # noqa: SIM118 (not a mapping)
                raise BadInput(f"{path}: expected tensor {name}, found no such tensor")
            header = file.get_slice(name)
            shape, dtype = expected_tensors(self.config)[field]
            if tuple(header.get_shape()) != shape:
                raise BadInput(
                    f"{path}: {name}: expected shape {list(shape)} from config.json, "
                    f"found {header.get_shape()}"
                )
            found = header.get_dtype()
            wanted = _FLOATING if dtype is None else _spelled(dtype)
            if found not in wanted:
                raise BadInput(
                    f"{path}: {name}: expected dtype {' or '.join(wanted)}, "
                    f"found {found}"
                )
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor

    def _refuse_nan_scales(self, field: str, layer: int, scales: torch.Tensor) -> None:
        bad = scales == NAN_BYTE
        if bad.any():
            e, row, block = (int(v) for v in bad.nonzero()[0])
            name = self.spelling[field].format(layer=layer)
            raise BadInput(
                f"{self.files[name]}: {name}: expected scale bytes 0x00 to 0xfe, "
                f"found 0xff (NaN) at expert {e}, row {row}, block {block} "
                f"and {int(bad.sum()) - 1} more"
            )


def open_checkpoint(folder: Path | str) -> Checkpoint:
    """Open a gpt-oss folder: config.json, one or many safetensors files.

    Both the Hugging Face and the original OpenAI tensor names are understood.
    Raises `BadInput` for anything else.
    """
    folder = Path(folder)
    # os.path, because pathlib raises for a name that is too long.
    if not os.path.isdir(folder):
        raise BadInput(f"{folder}: expected a checkpoint folder, found none")
    config, layers = read_config(folder / "config.json")
    files = _locate_tensors(folder)
    for spelling in SPELLINGS:
        if spelling["gate_up_blocks"].format(layer=0) in files:
            return Checkpoint(
                folder=folder,
                config=config,
                layers=layers,
                files=files,
                spelling=spelling,
            )
    wanted = " or ".join(s["gate_up_blocks"].format(layer=0) for s in SPELLINGS)
    raise BadInput(
        f"{folder}: expected gpt-oss MXFP4 experts ({wanted}), "
        f"found {len(files)} tensors and none of that name"
    )


def _locate_tensors(folder: Path) -> dict[str, Path]:
    index = folder / INDEX_NAME
    if index.exists():
        return _read_index(folder, index)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise BadInput(f"{folder}: expected *.safetensors, found none")
    located: dict[str, Path] = {}
    for path in paths:
        with _open(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name in located:
                    raise BadInput(
                        f"{path}: {name}: expected each tensor once, "
                        f"found it in {located[name].name} as well"
                    )
                located[name] = path
    return located


def _read_index(folder: Path, index: Path) -> dict[str, Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise BadInput(f"{index}: expected an object 'weight_map', found none")
    located = {}
    for name, file_name in weight_map.items():
        # Compared as text: in a hub cache the files themselves are symbolic links.
        inside = isinstance(file_name, str) and (
            PurePosixPath(file_name).name == file_name and "\\" not in file_name
        )
        if not inside or file_name in ("", ".", ".."):
            raise BadInput(
                f"{index}: {name}: expected a file name in the same folder, "
                f"found {file_name!r:.80}"
            )
        located[name] = folder / file_name
    for name, path in located.items():
        if not os.path.isfile(path):
            raise BadInput(f"{path}: expected this shard for {name}, found no file")
    return located


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"{path}: expected a whole safetensors file, found {error}"
        ) from error


def _spelled(dtype: torch.dtype) -> tuple[str, ...]:
    return tuple(name for name, known in _HEADER_DTYPES.items() if known == dtype)
