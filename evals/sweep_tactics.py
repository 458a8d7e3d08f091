"""``python -m mxmoe.evals.sweep_tactics``: our Triton layer under every tactic.

    python -m mxmoe.evals.sweep_tactics --tokens 4,32 t16-1x2s4w4-1x1s4w4-k2 ...

Each tactic is a contestant of ``mxmoe bench moe``, so its output is judged before and
after it is timed. Without labels all tactics that can be chosen take part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated
from typing import Any

import torch
import typer

from mxmoe.conformance.registry import load_candidate
from mxmoe.evals.moe_contest.contestant import Layer
from mxmoe.evals.moe_contest.measure import measure_moe
from mxmoe.kernels.check_input import check_device
from mxmoe.kernels.triton_moe import ops
from mxmoe.kernels.triton_moe.layer import layer_of
from mxmoe.kernels.triton_moe.tactics import TACTICS
from mxmoe.kernels.triton_moe.tactics import parse_tactic
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig


@dataclass(frozen=True)
class ForcedTactic:
    """``triton_moe`` with one tactic for every batch; see `Contestant`."""

    name: str
    arithmetic: Arithmetic

    routing_dtype = torch.float32
    router = "its own, inside the fused operator"
    version = None

    def build(
        self, weights: ExpertWeights, config: MoEConfig, device: torch.device
    ) -> Layer:
        """See `Contestant`; all tactics share the prepared weights."""
        arguments = _prepared(weights, config, str(device))

        def layer(hidden_states: torch.Tensor) -> torch.Tensor:
            return torch.ops.mxmoe.triton_moe_fused(
                hidden_states,
                weights.router_weight,
                weights.router_bias,
                config.top_k,
                config.routed_scaling,
                **arguments,
                tactic=self.name,
            )

        return layer


@cache
def _prepared(weights: ExpertWeights, config: MoEConfig, device: str) -> dict[str, Any]:
    subject = load_candidate("triton_moe", device=device)
    return ops.arguments(layer_of(subject.prepare(weights, config, WHOLE)))


def main(
    tactics: Annotated[
        list[str] | None, typer.Argument(help="labels; default: all")
    ] = None,
    tokens: Annotated[str, typer.Option(help="with commas between")] = "4,32,128",
    experts: Annotated[int, typer.Option()] = 128,
    size: Annotated[int, typer.Option(help="hidden and intermediate")] = 2880,
    replays: Annotated[int, typer.Option()] = 50,
    device: Annotated[str, typer.Option()] = "cuda",
) -> None:
    """Print the median of every tactic at every token count, fastest first."""
    labels = tactics or [tactic.label() for tactic in TACTICS]
    arithmetic = load_candidate("triton_moe", device=device).arithmetic
    result = measure_moe(
        [ForcedTactic(parse_tactic(n).label(), arithmetic) for n in labels],
        MoEConfig(hidden=size, intermediate=size, experts=experts, top_k=4),
        sorted({int(count) for count in tokens.split(",")}),
        check_device(device),
        replays=replays,
        seed=0,
        say=lambda line: None,
    )
    for row in result.rows():
        typer.echo("\n".join(_lines(row)))


def _lines(row: Mapping[str, Any]) -> list[str]:
    """One for each tactic of one token count."""
    cells = row["contestants"]
    refused = [name for name, figures in cells.items() if "refused" in figures]
    timed = sorted(set(cells) - set(refused), key=lambda n: cells[n]["median_us"])
    title = "{tokens} tokens, {experts} experts, floor {floor_us:.1f} us"
    line = "  {0:34} {median_us:8.1f} us, {floor_fraction:.3f} of the floor"
    return [
        title.format(**row),
        *(line.format(name, **cells[name]) for name in timed),
        *(f"  {name:34} refused: {cells[name]['refused']}" for name in refused),
    ]


if __name__ == "__main__":
    typer.run(main)
