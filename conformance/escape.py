r"""Text from models, names and exceptions, made harmless for the channel it goes to.

`printable` comes first in each: what no reader may meet raw (escape codes, bidi
controls, characters that XML forbids, lone surrogates that UTF-8 cannot hold) is shown
as ``\x1b``. What is left is quoted in the channel's own way.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import TextIO

# A spreadsheet reads a cell that begins so as a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@")
_BACKTICKS = re.compile("`+")
# Markdown gives none of these a meaning; a line that begins with a digit, a dash or a
# plus may be a list.
_PLAIN_WORDS = re.compile(r"|[A-Za-z(][A-Za-z0-9 ,.:;()%/×±+=-]*")
_LINK = re.compile(r"www\.|://|\bGH-", re.IGNORECASE)


def printable(text: str) -> str:
    r"""Control characters (but newlines) as ``\x1b``: no escape code gets through."""
    return "".join(
        char
        if char == "\n" or char.isprintable()
        else char.encode("unicode_escape").decode()
        for char in text
    )


def for_html(text: str) -> str:
    """For the text of an element and for an attribute in quotes; newlines stay."""
    return html.escape(printable(text), quote=True)


def for_script(value: Any) -> str:
    r"""`value` as JSON for a script element: nothing in it closes the element.

    ``<``, ``>`` and ``&`` become ``\u003c``, as does all that is not ASCII; parsed, the
    strings are what they were.
    """
    text = json.dumps(value, allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def for_xml(text: str) -> str:
    """For a library that writes XML: without what XML 1.0 has no way to hold.

    Markup (``<``, ``]]>``) is the library's to escape.
    """
    return printable(text)


def for_markdown(text: str, *, longest: int = 300) -> str:
    """One line, also inside of a table: no markup, link or @mention works.

    Plain words stay, all else becomes code. Cut behind `longest` characters, as a
    comment has a limit of its own.
    """
    line = " ".join(printable(text).split("\n")).strip()
    if len(line) > longest:
        line = f"{line[:longest]}…"
    if _PLAIN_WORDS.fullmatch(line) and not _LINK.search(line):
        return line
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    # A table's cell ends at a bar, in code as well, unless a backslash is before it.
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def for_markdown_block(text: str) -> str:
    """A fenced block of several lines."""
    clean = printable(text)
    fence = "`" * max(3, _longest_run(clean) + 1)
    return f"{fence}text\n{clean}\n{fence}"


def for_csv(value: object) -> object:
    """A cell: numbers as they are; no text that a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    line = " ".join(printable(value).split("\n"))
    return f"'{line}" if line.lstrip().startswith(_FORMULA) else line


def write_csv(
    file: TextIO, header: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """A whole CSV file, each cell through `for_csv`; `file` with ``newline=""``."""
    lines = csv.writer(file)
    lines.writerow(map(for_csv, header))
    lines.writerows(map(for_csv, row) for row in rows)


def _longest_run(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)
