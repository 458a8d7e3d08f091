"""A folder in the format in which gpt-oss is published, and what may be wrong with it.

The real ones have gigabytes; this one has their file names, tensors, dtypes and
config.json with smaller numbers and random weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from safetensors.torch import load_file
from safetensors.torch import save_file

from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.commands.main import main
from mxmoe.evals.grade_school import tokenizer
from mxmoe.reference.types import MoEConfig

pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = 2
# config.json of openai/gpt-oss-20b but for sizes; `write_checkpoint` writes these.
PUBLISHED = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 990,
    "experts_per_token": 4,
    "hidden_act": "silu",
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "output_router_logits": False,
    "pad_token_id": 991,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": tokenizer.VOCABULARY,
}
GENERATION = {"bos_token_id": 989, "do_sample": True, "eos_token_id": [990, 991]}
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never changed; a test that breaks something copies it first."""
    folder = tmp_path_factory.mktemp("published") / "gpt-oss-tiny"
    small = MoEConfig(hidden=96, intermediate=96, experts=8, top_k=4)
    write_checkpoint(folder, config=small, layers=LAYERS)
    first = folder / "model-00001-of-00003.safetensors"
    tensors, random = load_file(first), torch.Generator().manual_seed(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        wide = torch.randn((tokenizer.VOCABULARY, small.hidden), generator=random)
        tensors[name] = wide.bfloat16()
    save_file(tensors, first, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_bytes())
    for name in ("torch_dtype", "bos_token_id"):
        del config[name]
    _write(folder / "config.json", config | PUBLISHED)
    _write(folder / "generation_config.json", GENERATION)
    for path in tokenizer.FOLDER.iterdir():
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, published: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "gpt-oss-tiny"))


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code and all that was printed."""

    def run(name: str, folder: Path, *more: str) -> tuple[int, str]:
        where = ("--model", str(folder), "--run-dir", str(tmp_path / "run"))
        with pytest.raises(SystemExit) as ended:
            main([name, "--candidate", "torch_dense", *where, *more])
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out + said.err

    return run


def test_its_tensors_are_named_and_typed_as_published(published: Path) -> None:
    index = json.loads((published / "model.safetensors.index.json").read_bytes())
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    tensors: dict[str, torch.Tensor] = {}
    for path in published.glob("*.safetensors"):
        tensors |= load_file(path)
    assert tensors.keys() == index["weight_map"].keys()
    packed = {n for n, t in tensors.items() if t.dtype == torch.uint8}
    assert packed == {
        f"model.layers.{layer}.mlp.experts.{matrix}_proj_{part}"
        for layer in range(LAYERS)
        for matrix in ("gate_up", "down")
        for part in ("blocks", "scales")
    }
    assert {tensors[name].dtype for name in tensors.keys() - packed} == {torch.bfloat16}


def test_another_model_is_another_protocol(command: Command, published: Path) -> None:
    code, said = command("gate", published)
    assert code == 3
    assert said.startswith("other protocol: model_sha256: expected ")
    assert "verdict: INVALID torch_dense on grade_school" in said


@pytest.mark.nightly
def test_a_threshold_admits_it_and_random_weights_fail(
    command: Command, published: Path
) -> None:
    code, said = command("gate", published, "--threshold", "90")
    assert code == 1
    assert "broken numerics" in said
    assert "NaN" not in said


def test_its_logits_are_those_of_transformers(
    command: Command, published: Path
) -> None:
    some = ("--questions", "4", "--limit", "0.5")
    code, said = command("teacher-forced", published, *some)
    assert code == 0, said
    assert "verdict: PASS" in said


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def without_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "expected tokenizer.json, found none"


def without_a_shard(folder: Path) -> str:
    (folder / "model-00002-of-00003.safetensors").unlink()
    return "expected this shard for model.layers.0."


def without_the_index(folder: Path) -> str:
    (folder / "model.safetensors.index.json").unlink()
    return "expected model.safetensors or model.safetensors.index.json, found neither"


def without_a_tensor(folder: Path) -> str:
    name = "model.layers.1.self_attn.sinks"
    path = folder / "model-00003-of-00003.safetensors"
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    return f"found missing keys ['{name}']"


def with_a_cut_shard(folder: Path) -> str:
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return "expected a whole safetensors file, found "


def of_another_architecture(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_bytes())
    _write(folder / "config.json", config | {"model_type": "qwen3_moe"})
    return "model_type: expected 'gpt_oss', found 'qwen3_moe'"


def with_experts_in_bfloat16(folder: Path) -> str:
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name in [n for n in tensors if n.endswith("_blocks")]:
            blocks = tensors.pop(name).shape
            del tensors[name.replace("_blocks", "_scales")]
            e, rows, groups, _ = blocks
            plain = torch.zeros(e, groups * 32, rows, dtype=torch.bfloat16)
            tensors[name.removesuffix("_blocks")] = plain
        save_file(tensors, path, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").unlink()
    return "expected gpt-oss MXFP4 experts"


def that_is_empty(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    return "config.json: expected a readable file, found No such file"


@pytest.mark.parametrize("name", ["gate", "teacher-forced"])
@pytest.mark.parametrize(
    "damage",
    [
        without_tokenizer,
        without_a_shard,
        without_the_index,
        without_a_tensor,
        with_a_cut_shard,
        of_another_architecture,
        with_experts_in_bfloat16,
        that_is_empty,
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(
    command: Command, folder: Path, damage: Callable[[Path], str], name: str
) -> None:
    expected = damage(folder)
    more = ("--threshold", "90") if name == "gate" else ("--questions", "2")
    code, said = command(name, folder, *more)
    assert code == 2, said
    assert expected in said
    assert str(folder) in said
    assert len(said.strip().splitlines()) == 1, said
