"""Hidden states as the kernel wants them: as wide as fc1's padded K axis."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field

import torch


def pad_hidden_states(
    hidden_states: torch.Tensor, width: int, into: torch.Tensor | None = None
) -> torch.Tensor:
    """[t, h] -> [t, width] with zeros behind h, contiguous.

    width : twice the bytes of a row of fc1 (gpt-oss: 3072, where fc2 has 2944 rows).
    into : memory to use, [t, width]; whatever it held is overwritten, the padding too,
    because 0 times a NaN or Inf that was left there is NaN.
    """
    t, h = hidden_states.shape
    padded = hidden_states.new_empty(t, width) if into is None else into
    padded[:, :h] = hidden_states
    padded[:, h:] = 0
    return padded


@dataclass(eq=False)
class PadBuffer:
    """Memory for padded hidden states that successive calls share.

    One call at a time may use it, as with every workspace of a stream.
    """

    _memory: dict[tuple[torch.device, torch.dtype], torch.Tensor] = field(
        default_factory=dict
    )

    def pad(self, hidden_states: torch.Tensor, width: int) -> torch.Tensor:
        """`pad_hidden_states` into the buffer, which grows where it must."""
        size = hidden_states.shape[0] * width
        key = hidden_states.device, hidden_states.dtype
        memory = self._memory.get(key)
        if memory is None or memory.numel() < size:
            memory = self._memory[key] = hidden_states.new_empty(size)
        into = memory[:size].view(-1, width)
        return pad_hidden_states(hidden_states, width, into)
