"""The training loop: resumable, the same from the same plan."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F  # noqa: N812

from mxmoe.evals.grade_school.generate import problems
from mxmoe.evals.grade_school.problem import Problem
from mxmoe.evals.training.batches import IGNORED
from mxmoe.evals.training.batches import Batch
from mxmoe.evals.training.batches import Batches
from mxmoe.evals.training.complete import accuracy
from mxmoe.evals.training.forward import as_mxfp4
from mxmoe.evals.training.forward import forward
from mxmoe.evals.training.parameters import Parameters
from mxmoe.evals.training.parameters import initial_parameters
from mxmoe.evals.training.parameters import with_fresh_biases
from mxmoe.evals.training.plan import Plan
from mxmoe.evals.training.shape import ModelShape
from mxmoe.evals.training.state import State

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run is carried out, without an effect on its result.

    deadline : of `time.monotonic()`; the run stops before it. evaluate_every : steps
    between accuracies on `validation` problems, which are never trained on.
    """

    deadline: float = float("inf")
    workers: int = 0
    report_every: int = 100
    evaluate_every: int = 1000
    validation: int = 256
    compiled: bool = False


def begin(
    plan: Plan,
    shape: ModelShape,
    device: torch.device,
    *,
    trained: Parameters | None = None,
) -> State:
    """The state before the first step.

    trained : parameters to start from, with the MoE layers' biases drawn anew.
    """
    if trained is None:
        made = initial_parameters(shape, plan.seed)
    else:
        made = with_fresh_biases(trained, shape, plan.seed)
    parameters = {name: value.to(device) for name, value in made.items()}
    moments = {
        moment: {name: torch.zeros_like(value) for name, value in parameters.items()}
        for moment in ("exp_avg", "exp_avg_sq")
    }
    return State(plan, shape, 0, 0.0, parameters, moments)


def train(state: State, conduct: Conduct, report: Report) -> None:
    """Go on with `state`, in place, to its last step or until the deadline."""
    plan, shape, parameters = state.plan, state.shape, state.parameters
    device = next(iter(parameters.values())).device
    for value in parameters.values():
        value.requires_grad_(True)
    optimizer = _optimizer(state, fused=device.type == "cuda")
    step_loss = torch.compile(loss) if conduct.compiled else loss
    held_out = list(islice(problems("validation", plan.seed), conduct.validation))
    batches = Batches(seed=plan.seed, rows=plan.rows, steps=plan.steps)
    began = reported = time.monotonic()
    before = state.seconds
    losses: list[torch.Tensor] = []
    for batch in batches.loader(start=state.step, workers=conduct.workers):
        if time.monotonic() > conduct.deadline:
            break
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(state.step)
        with half_precision(device):
            answer, uneven = step_loss(parameters, shape, batch.to(device))
        (answer + plan.balance * uneven).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), plan.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        losses.append(answer.detach())
        if state.step % conduct.report_every == 0 or state.step == plan.steps:
            mean = torch.stack(losses).mean().item()
            now = time.monotonic()
            line = {"step": state.step, "loss": mean, "balance": uneven.item()}
            line["steps_per_second"] = len(losses) / (now - reported)
            line["seconds"] = before + now - began
            if state.step % conduct.evaluate_every == 0 or state.step == plan.steps:
                line["accuracy"] = evaluate(as_mxfp4(parameters), shape, held_out)
            report(line)
            losses, reported = [], time.monotonic()
    state.seconds = before + time.monotonic() - began
    for value in parameters.values():
        value.requires_grad_(False)
    _take_moments(state, optimizer)


def loss(
    parameters: Parameters, shape: ModelShape, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """(cross-entropy of the answers' tokens, unevenness of the experts' use)."""
    output = forward(
        as_mxfp4(parameters), shape, batch.ids, batch.positions, batch.visible()
    )
    logits = output.logits.flatten(0, 1).float()
    targets = batch.targets.flatten()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED), output.balance


def evaluate(
    parameters: Parameters, shape: ModelShape, asked: Sequence[Problem]
) -> float:
    """Greedy accuracy, in bfloat16 on a GPU; parameters as `forward` takes them."""
    device = next(iter(parameters.values())).device
    batch = 512 if device.type == "cuda" else 64
    with torch.no_grad(), half_precision(device):
        return accuracy(parameters, shape, asked, batch=batch)


def half_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """bfloat16 matrix products on a GPU, float32 elsewhere."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _optimizer(state: State, *, fused: bool) -> torch.optim.AdamW:
    matrices = [p for p in state.parameters.values() if _decays(p)]
    others = [p for p in state.parameters.values() if not _decays(p)]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": state.plan.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=state.plan.learning_rate,
        betas=(state.plan.beta1, state.plan.beta2),
        fused=fused,
    )
    for name, parameter in state.parameters.items():
        slot: dict[str, torch.Tensor] = {
            moment: values[name] for moment, values in state.moments.items()
        }
        on = parameter.device if fused else torch.device("cpu")
        slot["step"] = torch.tensor(float(state.step), device=on)
        optimizer.state[parameter] = slot
    return optimizer


def _decays(parameter: torch.Tensor) -> bool:
    # Norms, biases and sinks have one axis; the experts' biases have two, and few rows.
    return parameter.ndim == 3 or (parameter.ndim == 2 and len(parameter) > 8)


def _take_moments(state: State, optimizer: torch.optim.AdamW) -> None:
    for name, parameter in state.parameters.items():
        for moment, values in state.moments.items():
            values[name] = optimizer.state[parameter][moment]
