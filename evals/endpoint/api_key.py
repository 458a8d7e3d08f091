"""The key of an endpoint: from the environment, to its header, to nowhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from dataclasses import field

from mxmoe.reference.errors import BadInput

# A shorter word can be part of an ordinary text, and could not be kept out of it
# without changing it.
_SHORTEST = 8
_HIDDEN = "[key]"


@dataclass(frozen=True)
class ApiKey:
    """A key, or none; not shown by `repr`."""

    value: str | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        """What a request carries."""
        return {} if self.value is None else {"Authorization": f"Bearer {self.value}"}

    def scrub(self, text: str) -> str:
        """`text` without the key: a server may repeat it, in an error or an answer."""
        return text if self.value is None else text.replace(self.value, _HIDDEN)


def key_from_environment(name: str | None) -> ApiKey:
    """The key in the variable `name`; none without a name.

    There is no default: a key meant for one host must not reach another because its
    variable happens to be set. Raises `BadInput`, without the key, where the variable
    is not set or holds what is no key.
    """
    if name is None:
        return ApiKey()
    value = os.environ.get(name)
    if value is None:
        raise BadInput(f"--api-key-env: expected a variable that is set, found {name}")
    visible = value.isascii() and all("!" <= char <= "~" for char in value)
    if not visible or len(value) < _SHORTEST:
        raise BadInput(
            f"{name}: expected a key of at least {_SHORTEST} visible ASCII characters, "
            f"found {len(value)} characters"
        )
    return ApiKey(value)
