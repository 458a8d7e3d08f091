"""A layer made ready to be called again and again: a CUDA graph, or the plain call."""

from __future__ import annotations

from typing import Protocol

import torch

from mxmoe.evals.moe_contest.contestant import Layer

# The first calls compile kernels and fill allocators, which no graph may hold.
_WARM_UPS = 3


class Replay(Protocol):
    """One layer with one batch in memory of its own."""

    def __call__(self) -> object:
        """Compute the output once more."""

    def output(self) -> torch.Tensor:
        """Compute it afresh, into memory that held NaN before, and return it."""


def make_replay(layer: Layer, hidden_states: torch.Tensor) -> Replay:
    """A graph on a GPU, the plain call on a CPU; `hidden_states` are copied."""
    kind = GraphReplay if hidden_states.is_cuda else PlainReplay
    return kind(layer, hidden_states.clone())


class GraphReplay:
    """Captured once; input and output stay where they are."""

    def __init__(self, layer: Layer, x: torch.Tensor) -> None:
        self._x = x  # the graph reads it at each replay
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                layer(x)
        torch.cuda.current_stream(x.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._out = layer(x)

    def __call__(self) -> None:
        """Launch the graph; does not wait for it."""
        self._graph.replay()

    def output(self) -> torch.Tensor:
        """See `Replay`."""
        if isinstance(self._out, torch.Tensor) and self._out.is_floating_point():
            self._out.fill_(torch.nan)
        self._graph.replay()
        torch.cuda.synchronize(self._x.device)
        return self._out


class PlainReplay:
    """Each call runs the layer."""

    def __init__(self, layer: Layer, x: torch.Tensor) -> None:
        self._layer, self._x = layer, x

    def __call__(self) -> torch.Tensor:
        """The output, computed."""
        with torch.no_grad():
            return self._layer(self._x)

    def output(self) -> torch.Tensor:
        """See `Replay`; the memory is the layer's own choice."""
        return self()
