"""What `mxmoe verify` was asked for: read from plain values, all of it checked."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from mxmoe.conformance.registry import bundled_names
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.registry import source_file
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.places import choose_layers
from mxmoe.conformance.suite.session import CANDIDATE_VARIABLE
from mxmoe.conformance.suite.session import check_device
from mxmoe.conformance.verify.checkpoint_identity import checkpoint_identity
from mxmoe.conformance.verify.tensor_digests import LayerDigests
from mxmoe.conformance.verify.tensor_digests import read_digests
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import Shard


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What the user typed, as plain values."""

    checkpoint: Path
    layout: str
    candidate: str | None = None
    tp: int = 1
    ep: int = 1
    rank: int | None = None
    layers: str | None = None
    device: str | None = None
    digests: Path | None = None
    write_digests: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class VerifyRequest:
    """A candidate, a checkpoint, a layout, and the part of them to compare.

    stored : digests to compare with instead of the index maps, or None.
    identity : what must be the same for a run to be continued.
    """

    options: VerifyOptions
    subject: Subject
    checkpoint: Checkpoint
    layout: Layout
    shards: tuple[Shard, ...]
    layers: tuple[int, ...]
    digest_facts: dict[str, Any]
    stored: dict[int, LayerDigests] | None
    identity: dict[str, Any] = field(repr=False)

    def again(self, layer: int, shard: Shard) -> str:
        """The one command that repeats one rank of one layer, against the maps."""
        asked = self.options
        words = ["mxmoe verify", str(asked.checkpoint), "--layout", self.layout.name]
        words += ["--candidate", self.subject.spec, "--tp", str(shard.tp_size)]
        words += ["--rank", str(shard.tp_rank), "--layers", str(layer)]
        if shard.ep_size > 1:
            words += ["--ep", str(shard.ep_size)]
        if asked.device is not None:
            words += ["--device", asked.device]
        return " ".join(words)


def read_request(options: VerifyOptions) -> VerifyRequest:
    """Load and check everything; raises `BadInput`, before anything is written."""
    check_device(options.device)
    layout = find_layout(options.layout)
    if options.digests is not None and options.write_digests is not None:
        raise BadInput(
            "--write-hashes: expected a comparison with the index maps, found --hash"
        )
    checkpoint = open_checkpoint(options.checkpoint)
    shards = _shards(options, layout, checkpoint)
    layers = choose_layers(checkpoint, options.layers or "all")
    subject = _subject(options, layout)
    identity = checkpoint_identity(checkpoint)
    facts = {
        "layout": layout.name,
        "config": checkpoint.config.label(),
        "layers": checkpoint.layers,
        "checkpoint": identity,
        "tp": options.tp,
        "ep": options.ep,
    }
    stored = None
    if options.digests is not None:
        stored = read_digests(options.digests, facts)
        names = set(layout.names(checkpoint.config))
        _need_digests(options.digests, stored, layers, shards, names)
    return VerifyRequest(
        options=options,
        subject=subject,
        checkpoint=checkpoint,
        layout=layout,
        shards=shards,
        layers=layers,
        digest_facts=facts,
        stored=stored,
        identity={**facts, **_asked(options, subject)},
    )


def _asked(options: VerifyOptions, subject: Subject) -> dict[str, Any]:
    """What else must be the same for a run to be continued; not the layers."""
    source = source_file(subject.spec)
    digests = options.digests
    return {
        "rank": options.rank,
        "candidate": subject.name,
        "candidate_file": None if source is None else _sha256(source),
        "device": str(subject.device),
        "against": "index maps" if digests is None else _sha256(digests),
        "digests": options.write_digests is not None,
    }


def find_layout(name: str) -> Layout:
    """``trtllm_gen.v1``, or ``trtllm_gen`` for its newest version."""
    if name in LAYOUTS:
        return LAYOUTS[name]
    versions = {
        int(match[1]): layout
        for known, layout in LAYOUTS.items()
        if (match := re.fullmatch(re.escape(name) + r"\.v(\d+)", known))
    }
    if not versions:
        raise BadInput(
            f"--layout: expected one of {', '.join(LAYOUTS)}, found {name!r:.80}"
        )
    return versions[max(versions)]


def _shards(
    options: VerifyOptions, layout: Layout, checkpoint: Checkpoint
) -> tuple[Shard, ...]:
    """Every rank that was asked for, padded as the layout pads."""
    refusal = layout.refuses(checkpoint.config)
    if refusal is not None:
        raise BadInput(f"{options.checkpoint}: {layout.name}: {refusal}")
    if options.tp < 1 or options.ep < 1:
        name, found = ("tp", options.tp) if options.tp < 1 else ("ep", options.ep)
        raise BadInput(f"--{name}: expected at least 1, found {found}")
    if options.rank is not None and not 0 <= options.rank < options.tp:
        raise BadInput(
            f"--rank: expected 0 to {options.tp - 1} with --tp {options.tp}, "
            f"found {options.rank}"
        )
    ranks = range(options.tp) if options.rank is None else (options.rank,)
    shards = tuple(
        layout.aligned(
            Shard(tp_size=options.tp, tp_rank=r, ep_size=options.ep, ep_rank=q)
        )
        for q in range(options.ep)
        for r in ranks
    )
    shards[0].expert_range(checkpoint.config)
    return shards


def _subject(options: VerifyOptions, layout: Layout) -> Subject:
    spec = options.candidate or os.environ.get(CANDIDATE_VARIABLE) or None
    if spec is None:
        loaded = [
            load_candidate(name, device=options.device) for name in bundled_names()
        ]
        fitting = [s for s in loaded if s.layout is layout and s.has("prepare")]
        if len(fitting) != 1:
            names = ", ".join(s.name for s in fitting) or "none"
            raise BadInput(
                "--candidate: expected one, as the bundled candidates that prepare "
                f"{layout.name} are {names}"
            )
        return fitting[0]
    subject = load_candidate(spec, device=options.device)
    if not subject.has("prepare"):
        raise BadInput(
            f"{spec}: expected prepare(weights, config, shard, device), found none"
        )
    if subject.layout is not layout:
        declared = subject.capabilities.layout
        raise BadInput(
            f"{spec}: expected a candidate that declares layout {layout.name!r}, "
            f"found {declared!r}"
        )
    return subject


def _need_digests(
    path: Path,
    stored: dict[int, LayerDigests],
    layers: tuple[int, ...],
    shards: tuple[Shard, ...],
    names: set[str],
) -> None:
    for layer in layers:
        for shard in shards:
            found = stored.get(layer, {}).get(shard.label(), {})
            if set(found) != names:
                raise BadInput(
                    f"{path}: expected digests of layer {layer} {shard.label()} "
                    f"{', '.join(sorted(names))}, found {', '.join(found) or 'none'}"
                )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
