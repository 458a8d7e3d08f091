"""A process group that counts what a model asks of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

BACKEND = "recording"


class RecordingGroup(dist.ProcessGroup):
    """gloo's all-reduce, with the shape of every tensor in `all_reduced`.

    It knows no other collective: asking it for one is an error.
    """

    all_reduced: list[list[int]]

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]
        self.all_reduced = []
        self._gloo: Any = dist.ProcessGroupGloo(store, rank, size, timeout)

    # torch names a group of a backend of one's own, and then does not find the name.
    def _set_group_name(self, name: Any) -> None:
        self._name = name
        super()._set_group_name(name)

    @property
    def group_name(self) -> Any:
        """What the group is registered as."""
        return self._name

    def getBackendName(self) -> str:  # noqa: N802 (torch's name)
        """What torch calls this group."""
        return BACKEND

    def allreduce(  # type: ignore[override]
        self, tensors: list[torch.Tensor], *options: Any
    ) -> dist.Work:
        """Counted, then gloo's."""
        self.all_reduced += [list(tensor.shape) for tensor in tensors]
        return self._gloo.allreduce(tensors, *options)


def start_recording() -> RecordingGroup:
    """Make the default process group of this rank a recording one."""
    groups: list[RecordingGroup] = []

    def create(store: Any, rank: int, size: int, timeout: timedelta) -> RecordingGroup:
        groups.append(RecordingGroup(store, rank, size, timeout))
        return groups[-1]

    dist.Backend.register_backend(BACKEND, create, devices=["cpu"])
    dist.init_process_group(BACKEND)
    return groups[0]
