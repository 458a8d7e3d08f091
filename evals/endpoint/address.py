"""The address of an endpoint, refused unless it is plain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from mxmoe.reference.errors import BadInput

# What an address needs. No backslash, space, "@", "?" or "#": programs differ in what
# host they read behind one of these, and the key goes to that host.
_PLAIN = re.compile(r"https?://[A-Za-z0-9._~\-\[\]:]+(/[A-Za-z0-9._~\-%/]*)?")
_VERSION = "/v1"


class Api(StrEnum):
    """The two ways to ask; the value is the path below the address."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"


@dataclass(frozen=True)
class Address:
    """base : scheme, host, port and path up to "/v1", without a slash at its end."""

    base: str

    def url(self, api: Api) -> str:
        """Where requests of an API go."""
        return f"{self.base}/{api}"

    @property
    def encrypted(self) -> bool:
        """Whether requests cannot be read on their way."""
        return self.base.startswith("https://")


def read_address(text: str) -> Address:
    """The address in `text`; "/v1" is added to a bare host.

    Raises `BadInput` for other schemes, user and password in the address (they are not
    repeated in the message), a query, and a port that is none.
    """
    if "@" in text:
        raise BadInput(
            "endpoint: expected an address without user and password "
            "(--api-key-env names a variable with the key), found one with '@'"
        )
    try:
        parts = urlsplit(text)
        plain = _PLAIN.fullmatch(text) and parts.hostname and parts.port != 0
    except ValueError:
        plain = None
    if not plain:
        raise BadInput(
            "endpoint: expected an address like http://127.0.0.1:8000/v1, "
            f"found {text[:200]!r}"
        )
    base = text.rstrip("/")
    for api in Api:
        base = base.removesuffix(f"/{api}")
    return Address(base if urlsplit(base).path else base + _VERSION)
