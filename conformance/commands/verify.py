"""``mxmoe verify``: every layer and rank of a checkpoint, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsDocument
from mxmoe.conformance.commands.options import OwnDevice
from mxmoe.conformance.verdict import ExitCode


def verify(
    checkpoint: Annotated[Path, typer.Argument(help="a gpt-oss MXFP4 folder")],
    layout: Annotated[
        str,
        typer.Option(help="trtllm_gen.v1, or trtllm_gen for its newest version"),
    ],
    candidate: Annotated[
        str | None,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="path/file.py:attr, package.module:attr or an installed name. "
            "Default: $MXMOE_CANDIDATE, else the bundled one of the layout.",
        ),
    ] = None,
    tp: Annotated[int, typer.Option(help="tensor-parallel ranks, all verified")] = 1,
    ep: Annotated[int, typer.Option(help="expert-parallel ranks, all verified")] = 1,
    rank: Annotated[
        int | None, typer.Option(help="only this tensor-parallel rank")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="0,5,35. Default: all.")] = None,
    device: OwnDevice = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="default: runs/<id>; given again: continues"),
    ] = None,
    hashes: Annotated[
        Path | None,
        typer.Option(
            "--hash", metavar="FILE", help="compare with the SHA-256 digests in FILE"
        ),
    ] = None,
    write_hashes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="keep the digests of a run that passes"),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, help="for a layer of another process"),
    ] = None,
    as_json: AsDocument = False,
) -> ExitCode:
    """Compare every prepared byte of a checkpoint with the layout's index maps.

    Layer by layer, each rank is prepared by the candidate, compared and freed. A run
    that was killed goes on where it was, with the same --run-dir. To split it over
    processes and hosts: torchrun ... -m mxmoe.conformance.commands.main verify ...

    Exit codes: 0 pass; 1 fail: bytes differ; 2 usage or bad input; 3 invalid: a layer
    could not be compared.
    """
    from mxmoe.conformance.verify.request import VerifyOptions
    from mxmoe.conformance.verify.run import run_verify

    return run_verify(
        VerifyOptions(
            checkpoint=checkpoint,
            layout=layout,
            candidate=candidate,
            tp=tp,
            ep=ep,
            rank=rank,
            layers=layers,
            device=device,
            digests=hashes,
            write_digests=write_hashes,
        ),
        run_folder=run_dir,
        wait=wait,
        as_json=as_json,
    )
