"""One corpus of hostile strings, and every channel that text leaves through."""

from __future__ import annotations

import csv
import html
import html.parser
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console

from mxmoe.conformance.escape import for_csv
from mxmoe.conformance.escape import for_html
from mxmoe.conformance.escape import for_markdown
from mxmoe.conformance.escape import for_markdown_block
from mxmoe.conformance.escape import for_script
from mxmoe.conformance.escape import for_xml
from mxmoe.conformance.escape import printable
from mxmoe.conformance.escape import write_csv
from mxmoe.conformance.rundir import RunWriter
from mxmoe.evals.moe_contest.table import write_csv as write_contest

Hostile = dict[str, str]
MARKDOWN = MarkdownIt("commonmark").enable("table")


def obeyed(text: str) -> set[str]:
    """Characters that a terminal or a reader's eye would obey."""
    return {char for char in text if char != "\n" and not char.isprintable()}


def flat(tokens: list[Token]) -> list[Token]:
    return [t for token in tokens for t in (token, *flat(token.children or []))]


class Elements(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag, *(name for name, _ in attrs)]

    def handle_comment(self, data: str) -> None:
        self.found.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.found.append("declaration")


def test_the_corpus_holds_what_each_channel_would_obey(hostile: Hostile) -> None:
    everything = "".join(hostile.values())
    for part in ("<script>", "</script>", "\x1b]", "\x00", "]]>", "|", "`", "=cmd"):
        assert part in everything
    for part in ("\ud800", "\u2028", "\u202e", "[bold", "@everyone"):
        assert part in everything
    assert max(map(len, hostile.values())) >= 20000


def test_a_terminal_gets_no_control_character(hostile: Hostile) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, markup=False, highlight=False)
    for text in hostile.values():
        console.print(printable(text), soft_wrap=True)
    # A colour of rich's own would be an escape code as well: none is asked for.
    assert not obeyed(out.getvalue())
    assert "[bold red]markup[/]" in out.getvalue()
    out.getvalue().encode()


def test_html_gets_text_only(hostile: Hostile) -> None:
    for name, text in hostile.items():
        made = for_html(text)
        elements = Elements()
        elements.feed(f'<p title="{made}">{made}</p>')
        elements.close()
        assert elements.found == ["p", "title"], name
        assert not obeyed(made), name
        assert html.unescape(made) == printable(text), name
        made.encode()


def test_json_inside_of_a_page_is_the_same_and_ends_no_script(hostile: Hostile) -> None:
    made = for_script(hostile)
    assert json.loads(made) == hostile
    assert not set(made) & set("<>&\u2028\u2029")
    assert made.isascii()


def test_xml_can_hold_it_and_gives_it_back(hostile: Hostile) -> None:
    for name, text in hostile.items():
        element = ElementTree.Element("a", b=for_xml(text))
        element.text = for_xml(text)
        found = ElementTree.fromstring(ElementTree.tostring(element, encoding="utf-8"))
        assert not len(found), name
        assert (found.text or "", found.get("b")) == (printable(text),) * 2, name


@pytest.mark.parametrize(
    "frame",
    ["{}", "- {}", "| a | b |\n|---|---|\n| {} | end |"],
    ids=["paragraph", "item", "cell"],
)
def test_markdown_gets_words_and_code_only(hostile: Hostile, frame: str) -> None:
    # What a frame makes by itself.
    own = {token.type for token in flat(MARKDOWN.parse(frame.format("word")))}
    for name, text in hostile.items():
        made = for_markdown(text)
        assert "\n" not in made
        assert not obeyed(made), name
        tokens = flat(MARKDOWN.parse(frame.format(made)))
        assert {token.type for token in tokens} <= own | {"code_inline", "text"}, name
        cells = sum(token.type == "td_open" for token in tokens)
        assert cells == (2 if "|" in frame else 0), name
        words = "".join(t.content for t in tokens if t.type == "text")
        assert not set(words) & set("@#<>`*_[]\\"), name
        assert "://" not in words, name
        assert "www." not in words, name


def test_markdown_keeps_plain_words() -> None:
    plain = "FAIL 3 of 9, error/bound 0.5"
    assert for_markdown(plain) == plain
    assert for_markdown("1. item") == "`1. item`"


def test_a_markdown_block_is_one_block(hostile: Hostile) -> None:
    for name, text in hostile.items():
        tokens = MARKDOWN.parse(f"{for_markdown_block(text)}\n\nend")
        kinds = [token.type for token in tokens]
        assert kinds[0] == "fence", name
        assert kinds[1:] == ["paragraph_open", "inline", "paragraph_close"], name


def by_suite(path: Path, texts: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, texts, [texts])


def by_bench(path: Path, texts: list[str]) -> None:
    RunWriter(path.parent / "run").bench(texts, [texts])
    (path.parent / "run" / "bench.csv").rename(path)


def by_contest(path: Path, texts: list[str]) -> None:
    figures: dict[str, Any] = {text: {"refused": text} for text in texts}
    row = {"tokens": 1, "experts": 1, "floor_us": 1.0, "contestants": figures}
    write_contest(path, [row], "ours")


@pytest.mark.parametrize("write", [by_suite, by_bench, by_contest])
def test_a_csv_file_holds_no_formula_and_no_other_line(
    hostile: Hostile, write: Callable[[Path, list[str]], None], tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    write(path, list(hostile.values()))
    text = path.read_bytes().decode()
    assert not obeyed(text.replace("\r\n", "\n"))
    lines = list(csv.reader(io.StringIO(text, newline="")))
    assert len(lines) == (len(hostile) + 1 if write is by_contest else 2)
    assert len({len(line) for line in lines}) == 1
    for cell in (cell for line in lines for cell in line):
        assert not cell.strip().startswith(("=", "+", "-", "@")), cell


def test_numbers_stay_numbers_in_csv() -> None:
    assert [for_csv(value) for value in (-1.5, 3, None)] == [-1.5, 3, None]
