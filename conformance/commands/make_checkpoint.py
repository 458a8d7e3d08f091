"""``mxmoe make-checkpoint``: write the embedded default checkpoint to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.verdict import ExitCode


def make_checkpoint(
    folder: Annotated[Path, typer.Argument(help="empty or absent folder to write")],
    seed: Annotated[int, typer.Option(min=0, help="another seed, other bytes")] = 0,
    layers: Annotated[int, typer.Option(min=1, max=1000)] = 2,
    hidden: Annotated[int, typer.Option(help="multiple of 32")] = 160,
    intermediate: Annotated[int, typer.Option(help="multiple of 32")] = 224,
    experts: Annotated[int, typer.Option()] = 8,
    top_k: Annotated[int, typer.Option()] = 4,
) -> ExitCode:
    """Write a small gpt-oss MXFP4 checkpoint, made from a seed.

    The layout is exactly Hugging Face's; the weights are random but designed, so that
    faults show. Nobody trained it.

    Exit codes: 0 written; 2 usage or bad input.
    """
    from mxmoe.conformance.cases.embedded import write_checkpoint
    from mxmoe.reference.types import MoEConfig

    config = MoEConfig(
        hidden=hidden, intermediate=intermediate, experts=experts, top_k=top_k
    )
    write_checkpoint(folder, config=config, layers=layers, seed=seed)
    total = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {layers} layers {config.label()}, seed {seed}, {total} bytes")
    return ExitCode.PASS
