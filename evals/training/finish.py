"""After the last step: export, score on the frozen test, faults, the model card."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from mxmoe.evals.grade_school import frozen
from mxmoe.evals.model_identity import weights_sha256
from mxmoe.evals.training.export import export
from mxmoe.evals.training.export import exported_parameters
from mxmoe.evals.training.loop import evaluate
from mxmoe.evals.training.planted import PLANTED
from mxmoe.evals.training.planted import Plant
from mxmoe.evals.training.state import State


def finish(
    state: State,
    folder: Path,
    *,
    asked: int = frozen.COUNT,
    faults: Mapping[str, Plant] = PLANTED,
) -> dict[str, Any]:
    """Write the model and its card into `folder`; return what was measured.

    The score is that of the exported bytes on the first `asked` frozen problems, in
    bfloat16 on a GPU and float32 on a CPU.
    """
    device = next(iter(state.parameters.values())).device
    export(state.parameters, state.shape, folder)
    parameters = exported_parameters(folder, device)
    problems = frozen.load_test_problems()[:asked]
    score = evaluate(parameters, state.shape, problems)
    correct = round(score * asked)
    interval = binomtest(correct, asked).proportion_ci(method="exact")
    scores = {
        name: evaluate(*plant(parameters, state.shape), problems)
        for name, plant in faults.items()
    }
    found: dict[str, Any] = {
        "correct": correct,
        "asked": asked,
        "interval_95": [float(interval.low), float(interval.high)],
        "faults": scores,
        "steps": state.step,
        "training_seconds": round(state.seconds, 1),
        "device": device_name(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "test_sha256": frozen.SHA256,
        "weights_sha256": weights_sha256(folder),
    }
    (folder / "README.md").write_text(card(state, found), encoding="utf-8")
    return found


def device_name(device: torch.device) -> str:
    """What a reader knows the device by."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU ({platform.machine()})"


def card(state: State, found: dict[str, Any]) -> str:
    """The model card, from what was measured."""
    plan, shape = state.plan, state.shape
    low, high = (100 * value for value in found["interval_95"])
    share = 100 * found["correct"] / found["asked"]
    count = sum(value.numel() for value in state.parameters.values())
    rows = "\n".join(
        f"| {name} | {100 * value:.1f} % |" for name, value in found["faults"].items()
    )
    finished = state.step == plan.steps
    start = (
        f" Started from a trained model (weights `{plan.started_from}`) whose routers' "
        "and experts' biases were drawn anew."
        if plan.started_from
        else ""
    )
    stopped = "" if finished else f" **Stopped early**, of {plan.steps} planned."
    return f"""# grade_school: a small gpt-oss model

`GptOssForCausalLM` with {count:,} parameters that answers grade-school word problems \
made from templates. It exists to test kernels: it knows nothing else.

* **Architecture**: hidden {shape.hidden}, intermediate {shape.intermediate}, \
{shape.layers} layers, {shape.experts} experts, top-{shape.top_k}, {shape.heads} heads \
and {shape.kv_heads} KV heads of {shape.head_dim}, window {shape.window} in every \
second layer, SwiGLU limit {shape.limit:g}, {shape.vocabulary} tokens. Experts in \
MXFP4, trained that way; all else in bfloat16.
* **Data**: problems of `mxmoe.evals.grade_school`, split `train`, made meanwhile; \
no combination of template and numbers of the test is among them. Loss on answers only.
* **Training**: {state.step} steps of {plan.rows} x 256 tokens, AdamW, rate \
{plan.learning_rate:g}, seed {plan.seed}; {state.seconds / 60:.1f} minutes on \
{found["device"]}, torch {found["torch"]}.{start}{stopped}
* **Score**: {found["correct"]} of {found["asked"]} frozen test problems, \
{share:.2f} % (95 % interval {low:.2f} to {high:.2f} %), greedy, 0-shot, strict \
extraction of `#### N`.

| planted fault | score |
|---|---|
| none | {share:.1f} % |
{rows}

Weights: SHA-256 `{found["weights_sha256"]}`. Test problems: SHA-256 \
`{found["test_sha256"]}`. Licence: that of mxmoe.
"""
