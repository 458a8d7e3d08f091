"""The forward pass for training is that of transformers, and of the exported bytes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra 'hf'")

from mxmoe.evals.grade_school import frozen
from mxmoe.evals.training.complete import complete
from mxmoe.evals.training.export import export
from mxmoe.evals.training.export import exported_parameters
from mxmoe.evals.training.fake_quantise import RULE
from mxmoe.evals.training.fake_quantise import fake_quantise
from mxmoe.evals.training.fake_quantise import quantised_values
from mxmoe.evals.training.forward import as_mxfp4
from mxmoe.evals.training.forward import forward
from mxmoe.evals.training.forward import moe_layer
from mxmoe.evals.training.parameters import Parameters
from mxmoe.evals.training.parameters import initial_parameters
from mxmoe.evals.training.planted import PLANTED
from mxmoe.evals.training.rope import rotations
from mxmoe.evals.training.shape import ModelShape
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import encode
from mxmoe.reference.moe import moe
from mxmoe.reference.routing import route

CPU = torch.device("cpu")
SHAPE = ModelShape()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("grade_school") / "model"
    export(initial_parameters(SHAPE, 3), SHAPE, made)
    return made


@pytest.fixture(scope="module")
def exported(folder: Path) -> Parameters:
    return exported_parameters(folder, CPU)


def tokens(*size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(0, SHAPE.vocabulary, size, generator=source)
    visible = torch.ones(*size, size[1], dtype=torch.bool).tril()
    return ids, torch.arange(size[1]).expand(size), visible


def from_transformers(folder: Path):  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, on a CPU
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=transformers.Mxfp4Config(dequantize=True),
            dtype=torch.float32,
            output_loading_info=True,
        )


def test_logits_and_answers_are_those_of_transformers(
    folder: Path, exported: Parameters
) -> None:
    model, info = from_transformers(folder)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    rotary = model.model.rotary_emb
    cos, _ = rotations(torch.tensor([[5]]), SHAPE.head_dim)
    expected = torch.cos(5 * rotary.inv_freq) * rotary.attention_scaling
    torch.testing.assert_close(cos.flatten(), expected)
    # Longer than the window, so that it matters.
    ids, positions, visible = tokens(2, 100)
    with torch.no_grad():
        ours = forward(exported, SHAPE, ids, positions, visible).logits
        theirs = model(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = [problem.prompt for problem in frozen.load_test_problems()[:3]]
    asked = tokenizer(prompts, return_tensors="pt", padding=True)
    found = model.generate(**asked, max_new_tokens=12, do_sample=False)
    written = tokenizer.batch_decode(
        found[:, asked["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert complete(exported, SHAPE, prompts, batch=2, longest=12) == written


def test_the_suite_reads_the_export_and_agrees_on_the_layer(
    folder: Path, exported: Parameters
) -> None:
    checkpoint = open_checkpoint(folder)
    config, weights = checkpoint.config, checkpoint.layer(1)
    assert (config.hidden, config.intermediate) == (192, 160)
    x = torch.randn(7, SHAPE.hidden, generator=torch.Generator().manual_seed(1))
    assert weights.router_bias is not None
    logits = x @ weights.router_weight.float().T + weights.router_bias.float()
    routing = route(logits, config.top_k)
    expected = moe(weights, config, x, routing)["combine"]
    found, _ = moe_layer(exported, "model.layers.1.mlp", SHAPE, x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_fake_quantisation_is_the_suites_codec() -> None:
    source = torch.Generator().manual_seed(2)
    spread = torch.exp(20 * torch.randn(256, 1, generator=source))
    x = torch.randn(256, 64, generator=source) * spread
    x[3], x[4, :32] = 0, 1e-42
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
    x[5] = torch.cat([ties, -ties]).repeat(4)
    assert torch.equal(quantised_values(x), decode(*encode(x, RULE), torch.float32))


def test_its_gradient_is_the_identity() -> None:
    x = torch.randn(2, 32, requires_grad=True)
    fake_quantise(x).backward(torch.full((2, 32), 3.0))
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((2, 32), 3.0))


def test_what_is_trained_is_what_is_exported(exported: Parameters) -> None:
    trained = as_mxfp4(initial_parameters(SHAPE, 3))
    for name, value in trained.items():
        rounded = value if name.endswith("_proj") else value.bfloat16().float()
        assert torch.equal(exported[name], rounded), name


def test_packed_problems_do_not_see_each_other(exported: Parameters) -> None:
    ids, positions, visible = tokens(1, 40)
    alone = forward(
        exported, SHAPE, ids[:, 25:], positions[:, :15], visible[:, :15, :15]
    )
    visible = visible.clone()
    visible[:, 25:, :25] = False
    packed_at = torch.cat([positions[:, :25], positions[:, :15]], dim=1)
    packed = forward(exported, SHAPE, ids, packed_at, visible)
    torch.testing.assert_close(packed.logits[:, 25:], alone.logits)


def test_the_sizes_are_what_the_issue_of_padding_needs(folder: Path) -> None:
    widths = {
        SHAPE.hidden,
        SHAPE.intermediate,
        SHAPE.heads * SHAPE.head_dim,
        SHAPE.kv_heads * SHAPE.head_dim,
    }
    assert all(width % 32 == 0 and width % 128 for width in widths)
    assert SHAPE.hidden != SHAPE.intermediate
    assert (SHAPE.experts, SHAPE.top_k) == (8, 4)
    assert all(n % 4 == 0 for n in (SHAPE.heads, SHAPE.kv_heads))
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert total <= 5_000_000


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_change_the_logits(fault: str, exported: Parameters) -> None:
    ids, positions, visible = tokens(1, 30)
    right = forward(exported, SHAPE, ids, positions, visible).logits
    changed = PLANTED[fault](exported, SHAPE)
    wrong = forward(*changed, ids, positions, visible).logits
    assert (wrong - right).norm() > 0.05 * right.norm()
