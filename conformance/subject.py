"""A loaded candidate under judgement: every call into it passes through here.

Exceptions, hangs and results of the wrong kind become verdicts that name the call.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mxmoe.conformance.candidate import Capabilities
from mxmoe.conformance.time_limit import CALL_SECONDS
from mxmoe.conformance.time_limit import CallTimedOut
from mxmoe.conformance.time_limit import time_limit
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.verdict import unsupported
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import Derived
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A candidate with its name, its claims and the device it runs on.

    call_seconds : the limit of one call, `CALL_SECONDS` if None. aside : calls are for
    the explanation of a failure that is known already.
    """

    spec: str
    name: str
    candidate: Any
    capabilities: Capabilities
    device_request: str | None = None
    call_seconds: float | None = None
    aside: bool = False

    def has(self, member: str) -> bool:
        """Whether the candidate exposes `member`."""
        return callable(getattr(self.candidate, member, None))

    def need(self, *members: str) -> None:
        """Raise `NotJudged` if the candidate lacks one of `members`."""
        for member in members:
            if not self.has(member):
                raise not_run(f"not observable: exposes no {member}")

    @property
    def arithmetic(self) -> Arithmetic:
        """The declared arithmetic class."""
        return self.capabilities.arithmetic_class()

    @property
    def layout(self) -> Layout | None:
        """The declared layout, or None when it is the candidate's own."""
        name = self.capabilities.layout
        return None if name is None else LAYOUTS[name]

    @cached_property
    def device(self) -> torch.device:
        """The first declared device that this machine has."""
        wanted = self.capabilities.devices
        if self.device_request is not None:
            wanted = [self.device_request]
        for kind in wanted:
            if kind.startswith("cpu") or torch.cuda.is_available():
                return torch.device(kind)
        return torch.device("cpu")

    def unavailable(self) -> str | None:
        """One sentence why the candidate cannot run here, or None."""
        declared = self.capabilities.devices
        if self.device_request and self.device_request.split(":")[0] not in declared:
            return f"declared devices {', '.join(declared)}, not {self.device_request}"
        if self.device.type not in declared:
            return f"needs {' or '.join(declared)}, this machine has cpu only"
        if not self.has("unavailable"):
            return None
        reason = self.call("unavailable")
        return None if reason is None else str(reason)

    def require(self, config: MoEConfig, shard: Shard) -> None:
        """Raise `NotJudged` if a declared capability excludes this shape or shard."""
        refusal = self.capabilities.refuses_shape(config)
        refusal = refusal or self.capabilities.refuses_shard(shard, config)
        if refusal is not None:
            raise unsupported(refusal)

    def call(self, member: str, *arguments: Any, **options: Any) -> Any:
        """Call one member; an exception or a hang raises `Failure`."""
        seconds = self.call_seconds or CALL_SECONDS
        try:
            with torch.no_grad(), time_limit(seconds):
                returned = getattr(self.candidate, member)(*arguments, **options)
                self.finish()
                return returned
        except CallTimedOut:
            raise Failure(
                Verdict.TIMEOUT, f"{member} did not return in {seconds:g} s"
            ) from None
        except KeyboardInterrupt:
            raise
        # sys.exit() and pytest.skip() too: neither may pass for a good answer.
        except BaseException as error:
            raise Failure(Verdict.CRASH, _crash_text(member, error)) from error

    def finish(self) -> None:
        """Wait for what a call began; here nobody waits, as nobody does in use."""

    def prepare(
        self, weights: ExpertWeights, config: MoEConfig, shard: Shard
    ) -> PreparedWeights:
        """The candidate's `prepare`, or our bytes in its layout if it has none.

        The candidate is given `shard` with its own padding rule, whatever that says.
        """
        shard = self.capabilities.align(shard)
        if not self.has("prepare"):
            return self.our_prepare(weights, config, shard)
        returned = self.call("prepare", weights, config, shard, self.device)
        if not isinstance(returned, Mapping):
            raise Failure(
                Verdict.MISMATCH,
                "prepare returned "
                f"{type(returned).__name__}, expected a mapping of names to tensors",
            )
        return self._wrap(returned, config, shard)

    def our_prepare(
        self, weights: ExpertWeights, config: MoEConfig, shard: Shard
    ) -> PreparedWeights:
        """Bytes that we prepare in the candidate's declared layout, on its device."""
        if self.layout is None:
            raise not_run("layout: the candidate's own, so we cannot prepare for it")
        shard = self.capabilities.align(shard)
        tensors = self.layout.expected(weights, config, shard)
        entries = self.layout.chains(config, self.layout.aligned(shard))
        # What is derived from the weights is for the host, and stays there.
        moved = {
            name: t if isinstance(entries[name], Derived) else t.to(self.device)
            for name, t in tensors.items()
        }
        return self._wrap(moved, config, shard)

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        routing: Routing,
        tactic: object = None,
    ) -> torch.Tensor:
        """The candidate's `forward`; the result is checked for kind and shape."""
        self.need("forward")
        options = {} if tactic is None else {"tactic": tactic}
        out = self.call("forward", prepared, hidden_states, routing, **options)
        return self.checked_output("forward", out, hidden_states.shape)

    def checked_output(
        self, member: str, out: object, shape: torch.Size
    ) -> torch.Tensor:
        """`out` itself, or `Failure` when it is not a floating tensor of `shape`."""
        if not isinstance(out, torch.Tensor):
            raise Failure(
                Verdict.MISMATCH,
                f"{member} returned {type(out).__name__}, "
                f"expected a tensor {list(shape)}",
            )
        if out.shape != shape or not out.is_floating_point():
            raise Failure(
                Verdict.MISMATCH,
                f"{member} returned {out.dtype} {list(out.shape)}, "
                f"expected {self.arithmetic.output} {list(shape)}",
            )
        return out

    def _wrap(
        self, tensors: Mapping[str, object], config: MoEConfig, shard: Shard
    ) -> PreparedWeights:
        return PreparedWeights(
            tensors=tensors,
            layout=self.capabilities.layout,
            config=config,
            shard=shard,
            valid_hidden=config.hidden,
            valid_intermediate=len(shard.intermediate_range(config)),
        )


def _crash_text(member: str, error: BaseException) -> str:
    # The candidate's own frames, innermost last: that is where its author looks.
    frames = traceback.extract_tb(error.__traceback__)[1:]
    lines = [f"{member} raised {type(error).__name__}: {error}"]
    for frame in frames[-4:]:
        where = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        lines.append(f"  at {where}: {frame.line}")
    return "\n".join(lines)
