"""One layer on its ranks: prepared by the candidate, compared, and forgotten.

In memory at one time: the layer (mapped from its file), the prepared tensors of one
rank, and one expert of one expected tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import field

import torch

from mxmoe.conformance.judging.expected_tensor import ExpectedTensor
from mxmoe.conformance.judging.expected_tensor import expected_tensors
from mxmoe.conformance.judging.expected_tensor import expert_pool
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verify.layer_lines import LayerLine
from mxmoe.conformance.verify.layer_lines import RankLine
from mxmoe.conformance.verify.request import VerifyRequest
from mxmoe.conformance.verify.tensor_digests import digest_all
from mxmoe.conformance.why_bytes.describe import difference_lines
from mxmoe.conformance.why_bytes.describe import kind_line
from mxmoe.conformance.why_bytes.describe import missing_line
from mxmoe.conformance.why_bytes.describe import prepared_tensors
from mxmoe.conformance.why_bytes.describe import why_lines
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Tensors = Mapping[str, torch.Tensor]

# The lines of each tensor that is wrong, and digests by tensor.
Findings = tuple[dict[str, list[str]], dict[str, str]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerVerifier:
    """Verifies layers of one request.

    explained : tensors whose fault was explained once; later ones are only counted,
    as an explanation takes seconds and a fault of the code is in every layer.
    _before : the layers verified so far, of which the last may stand for a later one.
    _maps : the index maps of each tensor-parallel rank, for all layers.
    """

    request: VerifyRequest
    explained: set[str] = field(default_factory=set)
    _before: list[int] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=expert_pool)
    _maps: dict[int, Mapping[str, IndexMap]] = field(default_factory=dict)

    def verify(
        self, layer: int, started: Callable[[Shard], None] | None = None
    ) -> LayerLine:
        """Every rank of one layer; `started` is called before each."""
        begin = time.perf_counter()
        checkpoint = self.request.checkpoint
        # Two mappings of the file: what a candidate writes into its own is not seen
        # in ours, and the pages that nobody writes are the same memory.
        given, pristine = checkpoint.layer(layer), checkpoint.layer(layer)
        ranks = []
        for shard in self.request.shards:
            if started is not None:
                started(shard)
            ranks.append(self._rank(layer, shard, given, pristine))
        seconds = round(time.perf_counter() - begin, 3)
        self._before.append(layer)
        return LayerLine(layer=layer, ranks=tuple(ranks), seconds=seconds)

    @property
    def _config(self) -> MoEConfig:
        return self.request.checkpoint.config

    def _rank(
        self, layer: int, shard: Shard, given: ExpertWeights, pristine: ExpertWeights
    ) -> RankLine:
        config, subject = self._config, self.request.subject
        begin = time.perf_counter()
        try:
            found = prepared_tensors(subject.prepare(given, config, shard))
            if subject.device.type == "cuda":
                _finish(subject.device)
        except Failure as error:
            text = self._text("prepare", layer, shard, [error.text])
            return RankLine(shard=shard.label(), verdict=error.verdict, text=text)
        prepared = time.perf_counter()
        expected = self._expected(shard, pristine)
        if self.request.stored is None:
            faults, digests = self._with_maps(shard, found, expected, pristine)
        else:
            stored = self.request.stored[layer][shard.label()]
            faults, digests = self._with_digests(stored, found, expected)
        texts = [self._text(n, layer, shard, lines) for n, lines in faults.items()]
        return RankLine(
            shard=shard.label(),
            verdict=Verdict.MISMATCH if faults else Verdict.OK,
            tensors=tuple(faults),
            text="\n".join(texts),
            digests=digests,
            bytes=sum(found[name].nbytes for name in expected if name in found),
            prepare_seconds=round(prepared - begin, 4),
            compare_seconds=round(time.perf_counter() - prepared, 4),
        )

    def _expected(
        self, shard: Shard, pristine: ExpertWeights
    ) -> dict[str, ExpectedTensor]:
        layout, config = self.request.layout, self._config
        if shard.tp_rank not in self._maps:
            self._maps[shard.tp_rank] = layout.maps(config, shard)
        maps = self._maps[shard.tp_rank]
        return expected_tensors(layout, pristine, config, shard, maps=maps)

    def _with_maps(
        self,
        shard: Shard,
        found: Tensors,
        expected: Mapping[str, ExpectedTensor],
        pristine: ExpertWeights,
    ) -> Findings:
        """Each tensor against its index map; digests if all are as expected."""
        faults = {}
        for name, tensor in expected.items():
            line = _wrong_kind(name, found, tensor)
            if line is not None:
                faults[name] = [line]
                continue
            difference = tensor.difference(found[name], self._pool)
            if difference is not None:
                faults[name] = difference_lines(
                    name, difference, found[name], tensor, self._config, shard
                )
                faults[name] += self._why(name, found, pristine, shard, difference.at)
        if faults or self.request.options.write_digests is None:
            return faults, {}
        return {}, digest_all(self._pool, {name: found[name] for name in expected})

    def _why(
        self,
        name: str,
        found: Tensors,
        pristine: ExpertWeights,
        shard: Shard,
        at: tuple[int, ...],
    ) -> list[str]:
        """The explanation, the first time that `name` is wrong."""
        if name in self.explained:
            return []
        self.explained.add(name)
        layout, config = self.request.layout, self._config
        return why_lines(
            name, found, layout, pristine, config, shard, at[0], self._other_layers
        )

    def _other_layers(self) -> Iterator[tuple[str, ExpertWeights]]:
        """The first and the last that were prepared before this one."""
        for layer in dict.fromkeys((*self._before[:1], *self._before[-1:])):
            yield f"layer {layer}", self.request.checkpoint.layer(layer)

    def _with_digests(
        self,
        stored: Mapping[str, str],
        found: Tensors,
        expected: Mapping[str, ExpectedTensor],
    ) -> Findings:
        """Each tensor against its stored digest; of the layout, only its kind."""
        present = {name: found[name] for name in expected if name in found}
        digests = digest_all(self._pool, present)
        faults = {}
        for name, tensor in expected.items():
            line = _wrong_kind(name, found, tensor)
            if line is None and digests[name] != stored[name]:
                line = f"expected SHA-256 {stored[name]}, found {digests[name]}"
            if line is not None:
                faults[name] = [line]
        return faults, digests

    def _text(self, what: str, layer: int, shard: Shard, lines: list[str]) -> str:
        config = self._config
        head = (
            f"{self.request.subject.name} · {what} · layer {layer} · "
            f"{config.label()} · {shard.label()}"
        )
        again = f"again  {self.request.again(layer, shard)}"
        return "\n".join((head, *lines, again))


def _wrong_kind(name: str, found: Tensors, expected: ExpectedTensor) -> str | None:
    """What is wrong with one tensor before its bytes are looked at, or None."""
    if name not in found:
        return missing_line(name, found)
    return kind_line(found[name], expected.dtype, expected.shape)


def _finish(device: torch.device) -> None:
    """Wait for what a candidate has started; its errors come to light here."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        text = f"prepare left an error on {device}: {error}"
        raise Failure(Verdict.CRASH, text) from error
