"""``python -m mxmoe.evals.train_grade_school RUN``: train the model of `grade_school`.

Trains until the last step or until --minutes are over, then saves; the same command
goes on from there. After the last step RUN/model holds the model and its card.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from mxmoe.evals.model_identity import weights_sha256
from mxmoe.evals.training import state as states
from mxmoe.evals.training.export import exported_parameters
from mxmoe.evals.training.finish import finish
from mxmoe.evals.training.loop import Conduct
from mxmoe.evals.training.loop import begin
from mxmoe.evals.training.loop import train
from mxmoe.evals.training.plan import Plan
from mxmoe.evals.training.shape import ModelShape
from mxmoe.reference.errors import BadInput

# Steps that measure the speed; the first of them warm up.
_MEASURED, _WARM = 60, 20


def main(
    run: Annotated[
        Path, typer.Argument(help="folder of the run, made or gone on with")
    ],
    minutes: Annotated[
        float, typer.Option(help="stop and save after this time, unless finished")
    ] = 1e9,
    steps: Annotated[
        int, typer.Option(min=0, help="of the whole run; 0: as many as fit --fill")
    ] = Plan.steps,
    fill: Annotated[
        float, typer.Option(help="minutes that the whole run may train, for --steps 0")
    ] = 15.0,
    warm_start: Annotated[
        Path | None,
        typer.Option(help="model to start from, its MoE biases drawn anew"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    rows: Annotated[int, typer.Option(min=1, help="of 256 tokens")] = Plan.rows,
    learning_rate: Annotated[float, typer.Option()] = Plan.learning_rate,
    hidden: Annotated[int, typer.Option(help="multiple of 32")] = ModelShape.hidden,
    intermediate: Annotated[
        int, typer.Option(help="multiple of 32")
    ] = ModelShape.intermediate,
    layers: Annotated[int, typer.Option(min=1)] = ModelShape.layers,
    device: Annotated[str, typer.Option()] = "cuda",
    workers: Annotated[int, typer.Option(help="processes that make batches")] = 12,
    evaluate_every: Annotated[int, typer.Option(min=1)] = 1000,
    validation: Annotated[int, typer.Option(min=1, help="held-out problems")] = 256,
    compiled: Annotated[
        bool, typer.Option("--compile", help="use torch.compile")
    ] = False,
    reserve: Annotated[
        float, typer.Option(help="minutes of --minutes kept for saving and scoring")
    ] = 1.0,
    export_now: Annotated[
        bool, typer.Option("--export", help="export what is saved; do not train")
    ] = False,
) -> None:
    """Train, or go on; the options of the plan count at the first call only."""
    deadline = time.monotonic() + 60 * (minutes - reserve)
    on = torch.device(device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    saved = run / "state"
    conduct = Conduct(
        deadline=deadline,
        workers=workers,
        evaluate_every=evaluate_every,
        validation=validation,
        report_every=min(100, evaluate_every),
        compiled=compiled,
    )
    run.mkdir(parents=True, exist_ok=True)
    if (saved / "state.json").exists():
        state = states.load(saved, on)
    elif export_now:
        raise BadInput(f"{run}: expected a saved run to export, found none")
    else:
        shape = ModelShape(hidden=hidden, intermediate=intermediate, layers=layers)
        plan = Plan(
            seed=seed,
            steps=steps,
            rows=rows,
            learning_rate=learning_rate,
            warmup=_warmup(steps),
        )
        if steps == 0:
            rate = steps_per_second(plan, shape, on, conduct)
            plan = replace(plan, steps=int(rate * fill * 60))
            plan = replace(plan, warmup=_warmup(plan.steps))
            typer.echo(f"{rate:.2f} steps/s: {plan.steps} steps")
        trained = None
        if warm_start is not None:
            trained = exported_parameters(warm_start, torch.device("cpu"))
            plan = replace(plan, started_from=weights_sha256(warm_start))
        state = begin(plan, shape, on, trained=trained)

    def report(line: dict[str, float]) -> None:
        text = json.dumps({name: round(value, 5) for name, value in line.items()})
        typer.echo(text)
        with (run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    if not export_now and state.step < state.plan.steps:
        train(state, conduct, report)
        states.save(state, saved)
        typer.echo(f"step {state.step} of {state.plan.steps} saved")
    if export_now or state.step == state.plan.steps:
        found = finish(state, run / "model")
        text = json.dumps(found, indent=2)
        (run / "result.json").write_text(text + "\n", encoding="utf-8")
        typer.echo(text)


def _warmup(steps: int) -> int:
    # A short run, on a CPU say, must not be warm-up for the most part.
    return min(Plan.warmup, steps // 20)


def steps_per_second(
    plan: Plan, shape: ModelShape, device: torch.device, conduct: Conduct
) -> float:
    """Measured on a run that is thrown away."""
    times: list[float] = []
    short = replace(plan, steps=_MEASURED)
    quiet = replace(conduct, report_every=_WARM, evaluate_every=_MEASURED + 1)
    quiet = replace(quiet, validation=1)

    def report(line: dict[str, float]) -> None:
        times.append(line["steps_per_second"])

    train(begin(short, shape, device), quiet, report)
    # The first report counts the warm-up; the last, evaluating, is not in its rate.
    return sum(times[1:]) / len(times[1:])


if __name__ == "__main__":
    typer.run(main)
