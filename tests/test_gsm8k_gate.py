"""`mxmoe gate --task gsm8k` end to end, on a random gpt-oss that can only fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")
pytest.importorskip("lm_eval", reason="needs the extra 'eval'")

from safetensors.torch import load_file
from safetensors.torch import save_file

from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.evals.gate import reference
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.prompts import prompts_of
from mxmoe.evals.gate.run import run_gate
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.grade_school import tokenizer
from mxmoe.evals.gsm8k import task as gsm8k_task
from mxmoe.evals.inside.load import load
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import MoEConfig

pytestmark = pytest.mark.filterwarnings("ignore")

# As gpt-oss's template does it: the date is part of the prompt.
TEMPLATE = (
    "<sys>{{ strftime_now('%Y-%m-%d') }}</sys>"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Enough to be cut, as a random model never ends.
OUTPUT_TOKENS = 9


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `mxmoe make-checkpoint` with a vocabulary and a template."""
    folder = tmp_path_factory.mktemp("model") / "random"
    small = MoEConfig(hidden=64, intermediate=64, experts=4, top_k=2)
    write_checkpoint(folder, config=small, layers=1)
    shard = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(shard)
    wide = torch.Generator().manual_seed(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        shape = (tokenizer.VOCABULARY, tensors[name].shape[1])
        tensors[name] = torch.randn(shape, generator=wide).bfloat16()
    save_file(tensors, shard, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_bytes())
    config |= {"vocab_size": tokenizer.VOCABULARY, "eos_token_id": 990}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for path in tokenizer.FOLDER.iterdir():
        shutil.copy(path, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def shorter_answers(
    monkeypatch: pytest.MonkeyPatch, folder: Path, **others: Any
) -> None:
    """The protocol of the reference with a lower output limit, on both sides."""
    folder.mkdir()
    for path in reference.FOLDER.glob("*.json"):
        facts = json.loads(path.read_bytes())
        if facts["protocol"]["task"] == "gsm8k":
            facts["protocol"] |= {"output_tokens": OUTPUT_TOKENS} | others
        (folder / path.name).write_text(json.dumps(facts), encoding="utf-8")
    monkeypatch.setattr(reference, "FOLDER", folder)
    monkeypatch.setattr(gsm8k_task, "OUTPUT_TOKENS", OUTPUT_TOKENS)


def options(model: Path, data: Path, **others: Any) -> Options:
    given = {"candidate": "torch_dense", "threshold": 87.1, "batch": 8} | others
    return Options(task="gsm8k", model=model, data=data, **given)


def test_a_random_model_fails_and_its_answers_are_kept(
    tmp_path: Path,
    random_model: Path,
    write_gsm8k: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write_gsm8k(tmp_path)
    made_up = gsm8k_task.load_task(data).protocol("")
    others = {name: getattr(made_up, name) for name in ("questions", "prompts_sha256")}
    shorter_answers(monkeypatch, tmp_path / "references", **others)
    found = run_gate(options(random_model, data), tmp_path / "run")
    assert found.verdict is GateVerdict.FAIL, found
    assert found.reasons[0] == (
        "0 of 1 correct; 3 of 3 pass, and no answer that is out could change the "
        "verdict"
    )
    [line] = read_answers(tmp_path / "run").values()
    assert (line.tokens, line.finish_reason) == (OUTPUT_TOKENS, "length")
    again = run_gate(options(random_model, data), tmp_path / "run")
    assert again == found


@pytest.mark.nightly
def test_a_random_model_fails_the_real_questions_as_broken(
    tmp_path: Path,
    random_model: Path,
    real_gsm8k: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorter_answers(monkeypatch, tmp_path / "references")
    found = run_gate(options(random_model, real_gsm8k), tmp_path / "run")
    assert found.verdict is GateVerdict.FAIL, found
    assert found.reasons[1].startswith("broken numerics")
    assert any("were cut at the output limit" in reason for reason in found.reasons)
    facts = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert facts["rule"] == {"asked": 1319, "least_correct": 1149}
    assert facts["questions_sha256"].startswith("3730d312f6e34405")
    assert len(facts["template_sha256"]) == 64
    lines = read_answers(tmp_path / "run")
    assert 5 <= len(lines) <= 8
    assert {line.tokens for line in lines.values()} == {OUTPUT_TOKENS}


def test_other_questions_are_no_verdict(
    tmp_path: Path, random_model: Path, write_gsm8k: Callable[[Path], Path]
) -> None:
    data = write_gsm8k(tmp_path)
    found = run_gate(options(random_model, data), tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert found.reasons[0] == "other protocol: questions: expected 1319, found 3"
    assert read_answers(tmp_path / "run") == {}


def test_a_model_without_a_reference_score_needs_a_threshold(
    tmp_path: Path, random_model: Path, write_gsm8k: Callable[[Path], Path]
) -> None:
    asked = options(random_model, write_gsm8k(tmp_path), threshold=None)
    with pytest.raises(BadInput, match="expected a model that has a reference score"):
        run_gate(asked, tmp_path / "run")


def test_the_prompt_is_the_template_s_and_the_same_tomorrow(
    tmp_path: Path, random_model: Path, write_gsm8k: Callable[[Path], Path]
) -> None:
    task = gsm8k_task.load_task(write_gsm8k(tmp_path))
    loaded = load(random_model, dtype=torch.float32, device="cpu")
    first = prompts_of(task, loaded.tokenizer)[0]
    assert first.startswith("<sys>2025-08-05</sys><user>Question: train: a crate has")
    assert first.endswith(
        "Question: test: a crate has 10 jars, 12 come. Now?\nAnswer:</><assistant>"
    )
    assert first.count("<assistant>") == 6


@pytest.mark.parametrize(
    ("template", "said"),
    [(None, "found none"), ("{{ raise_exception('no') }}", "found TemplateError: no")],
)
def test_a_template_that_does_not_fit_is_bad_input(
    tmp_path: Path,
    random_model: Path,
    write_gsm8k: Callable[[Path], Path],
    template: str | None,
    said: str,
) -> None:
    task = gsm8k_task.load_task(write_gsm8k(tmp_path))
    loaded = load(random_model, dtype=torch.float32, device="cpu")
    loaded.tokenizer.chat_template = template
    with pytest.raises(BadInput, match=said):
        prompts_of(task, loaded.tokenizer)
