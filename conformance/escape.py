"""Text from models, names and exceptions, made harmless for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Control characters (but newlines) as ``\x1b``: no escape code gets through."""
    return "".join(
        char
        if char == "\n" or char.isprintable()
        else char.encode("unicode_escape").decode()
        for char in text
    )
