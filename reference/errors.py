"""The one error that means: the input is wrong, here is what to change."""

from __future__ import annotations


class BadInput(ValueError):
    """Input from outside cannot be used.

    The message is one sentence that names what was read, what was expected and
    what was found. Every command prints it and exits with code 2. Names and
    paths come from outside too, so what is not printable is shown escaped.
    """

    def __init__(self, message: str) -> None:
        printable = (c if c.isprintable() else repr(c)[1:-1] for c in message)
        super().__init__("".join(printable))
