"""A gpt-oss folder -> transformers' model around the experts, without a network."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors import safe_open

from mxmoe.evals.inside.no_experts import built_without_experts
from mxmoe.evals.inside.no_experts import expert_names
from mxmoe.evals.inside.threads import spare_threads
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.checkpoint.read import INDEX_NAME
from mxmoe.reference.errors import BadInput

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Of transformers' devices: spread the layers over all GPUs.
AUTO = "auto"
_TOKENIZER = "tokenizer.json"
_MODEL = "model.safetensors", INDEX_NAME  # what transformers begins with


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A model, its tokenizer and the opened folder that both came from."""

    model: Any
    tokenizer: Any
    checkpoint: Checkpoint
    dtype: torch.dtype

    @property
    def layers(self) -> Any:
        """The decoder layers, in order."""
        return self.model.model.layers

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids that end an answer: those of generation_config.json."""
        found = self.model.generation_config.eos_token_id
        return (found,) if isinstance(found, int) else tuple(found)


def load(
    folder: Path | str, *, dtype: torch.dtype, device: str, experts: bool = True
) -> Loaded:
    """The model of `folder`, its experts decoded from MXFP4 to `dtype`.

    device : "cpu", "cuda", "cuda:1", ..., or "auto" for layers over all GPUs. experts :
    False for a model that a candidate is put into, whose own are not read; with "auto"
    they are, as layers are spread by their size. See `spare_threads` for the threads of
    a CPU that the process has from now on.

    Raises `BadInput` for a folder that is no gpt-oss checkpoint with MXFP4 experts and
    a tokenizer, for a damaged one, and for a device that is not there.
    """
    checkpoint = open_checkpoint(folder)
    _check_files(checkpoint)
    _check_device(device)
    spread = importlib.util.find_spec("accelerate") is not None
    if device == AUTO and not spread:
        raise BadInput(
            "device auto: expected accelerate, of the extra 'hf', found none"
        )
    experts = experts or device == AUTO
    with _quiet():
        try:
            model, info = (_whole if experts else _without_experts)(
                checkpoint.folder,
                dtype=dtype,
                device_map=device if spread else None,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                checkpoint.folder, local_files_only=True, padding_side="left"
            )
        # What transformers raises for a damaged folder follows no rule.
        except Exception as error:
            raise BadInput(
                f"{checkpoint.folder}: expected a model that transformers loads, "
                f"found {type(error).__name__}: {error}"
            ) from error
    left = frozenset() if experts else expert_names(checkpoint)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        wrong = sorted(set(map(str, info[kind])) - left)
        if wrong:
            raise BadInput(
                f"{checkpoint.folder}: expected all tensors of the model and no other, "
                f"found {kind.replace('_', ' ')} {wrong[:3]}"
            )
    model = (model if spread else model.to(device)).eval()
    spare_threads(model, hidden=checkpoint.config.hidden)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        checkpoint=checkpoint,
        dtype=dtype,
    )


def _whole(folder: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=transformers.Mxfp4Config(dequantize=True),
        **options,
    )


def _without_experts(folder: Path, **options: Any) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    # Nothing of what is read is quantised.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with built_without_experts():
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, **options
        )


def _check_files(checkpoint: Checkpoint) -> None:
    if not (checkpoint.folder / _TOKENIZER).is_file():
        raise BadInput(f"{checkpoint.folder}: expected {_TOKENIZER}, found none")
    if not any((checkpoint.folder / name).is_file() for name in _MODEL):
        raise BadInput(
            f"{checkpoint.folder}: expected {' or '.join(_MODEL)}, found neither"
        )
    # transformers does not say which shard is damaged.
    for path in sorted(set(checkpoint.files.values())):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BadInput(
                f"{path}: expected a whole safetensors file, found {error}"
            ) from error


def _check_device(device: str) -> None:
    if device != "cpu" and not torch.cuda.is_available():
        raise BadInput(f"device: expected cpu, as there is no GPU, found {device!r}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and its remarks on MXFP4 kernels."""
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
