"""No document names a command, an option, a file or a heading that does not exist."""

from __future__ import annotations

import configparser
import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

import pytest
import typer

from mxmoe.conformance.commands.main import GROUP
from mxmoe.conformance.commands.main import LazyCommands

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
)

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^(?: {4}.*\n)+", flags=re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
# A call stands at the start of a command: after a prompt, `--`, `run`, or `again`.
CALL = re.compile(r"(?:^|\s)mxmoe (?=[a-z])")


class Said(NamedTuple):
    """One line of a page that calls something."""

    page: str
    line: str

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def blocks(text: str) -> Iterator[str]:
    """What stands in console and shell blocks, and in indented ones."""
    for language, block in FENCED.findall(text):
        if language in ("console", "sh"):
            yield block
    yield from INDENTED.findall(FENCED.sub("", text))


def block_lines() -> Iterator[Said]:
    for page in PAGES:
        for block in blocks(page.read_text("utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                yield Said(page.name, line.strip())


def inline_code() -> Iterator[Said]:
    for page in PAGES:
        text = FENCED.sub("", page.read_text("utf-8"))
        for code in INLINE.findall(text):
            yield Said(page.name, code)


def calls(line: str) -> Iterator[list[str]]:
    """The arguments of each call of `mxmoe` in a line, a call inside another too."""
    line = re.sub(r"^(\$ |again\s+)", "", line).partition(" #")[0]
    if not re.match(r"(mxmoe|git bisect run mxmoe|check: \S+ mxmoe) ", line):
        return
    words = shlex.split(line)
    starts = [n for n, word in enumerate(words) if word == "mxmoe"]
    for start in starts:
        yield [word for word in words[start + 1 :] if word != "&"]


@functools.cache
def group() -> LazyCommands:
    return LazyCommands(GROUP, name="mxmoe")


@functools.cache
def command_named(path: tuple[str, ...]) -> Any:
    """A command or a group; built once, since typer reads every signature anew."""
    if not path:
        return group()
    found = command_named(path[:-1]).get_command(None, path[-1])
    assert found is not None, f"no command {' '.join(path)}"
    return found


def command_of(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command that is called, and what is left for it."""
    path: list[str] = []
    while arguments and isinstance(command_named(tuple(path)), LazyCommands):
        path, arguments = [*path, arguments[0]], arguments[1:]
    return command_named(tuple(path)), arguments


def options_of(command: Any) -> set[str]:
    return {"--help"}.union(
        *((*one.opts, *one.secondary_opts) for one in command.params)
    )


@functools.cache
def every_option() -> set[str]:
    found: set[str] = set()
    paths: list[tuple[str, ...]] = [()]
    while paths:
        path = paths.pop()
        command = command_named(path)
        if isinstance(command, LazyCommands):
            paths += [(*path, name) for name in command.list_commands(None)]
        else:
            found |= options_of(command)
    return found


def parse(arguments: list[str]) -> None:
    """As typer does before it calls the function; raises what typer would print."""
    command, left = command_of(arguments)
    if isinstance(command, LazyCommands):
        assert not left
        return
    command.make_context(arguments[0], left)


CALLS = [(said, arguments) for said in block_lines() for arguments in calls(said.line)]


def test_every_command_line_of_a_block_is_parsed_by_its_command() -> None:
    assert len(CALLS) > 30
    wrong = []
    for said, arguments in CALLS:
        try:
            parse(arguments)
        except Exception as error:
            wrong.append(f"{said}\n    {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--candidates", "x"],
        ["checks"],
        ["gate", "--dtype"],
        ["replay"],
        ["bench", "moe", "--replays", "many"],
    ],
    ids=" ".join,
)
def test_a_command_line_that_is_wrong_is_not_parsed(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"option|argument|command|integer|parameter"):
        parse(arguments)


def test_every_command_in_a_sentence_exists_with_its_options() -> None:
    found = [said for said in inline_code() if CALL.match(said.line)]
    assert len(found) > 50
    for said in found:
        command, left = command_of(said.line.split()[1:])
        if isinstance(command, LazyCommands):
            continue
        own = left[: left.index("--")] if "--" in left else left
        known = options_of(command)
        for word in own:
            name = word.strip("[]")
            assert not name.startswith("-") or name in known, said


def module_command(name: str) -> Any:
    """The command of ``python -m name``."""
    app = typer.Typer(add_completion=False)
    app.command()(importlib.import_module(name).main)
    return typer.main.get_command(app)


# Options in sentences that belong to pytest, under which the suite runs as well.
OF_PYTEST = {"--hypothesis-profile", "--mxmoe-device"}


def test_every_option_in_a_sentence_exists() -> None:
    modules = ("nightly", "train_grade_school", "score_grade_school")
    commands = [module_command(f"mxmoe.evals.{name}") for name in modules]
    of_modules = set[str]().union(*map(options_of, commands))
    for said in inline_code():
        found = re.match(r"-(-[a-z][a-z0-9-]*|[a-z])(?=[ =]|$)", said.line)
        if found is None or found[0] in every_option():
            continue
        assert found[0] in OF_PYTEST | of_modules, said


def test_every_module_script_test_and_environment_exists() -> None:
    """`python -m`, `*.sh`, `pytest FILE` and `tox -e NAME`, in blocks and sentences."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    seen = set()
    for said in (*block_lines(), *inline_code()):
        for module, rest in re.findall(r"python -m (mxmoe[\w.]+)(.*)", said.line):
            seen.add("module")
            module_command(module).make_context(module, shlex.split(rest))
        for file in re.findall(r"[\w/]+/\w+\.sh|\btests/[\w/]+\.py", said.line):
            seen.add("file")
            assert (ROOT / file).is_file(), said
        for name in re.findall(r"tox -e (\w+)", said.line):
            seen.add("environment")
            assert f"testenv:{name}" in tox, said
    assert seen == {"module", "file", "environment"}


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives the headings of a page."""
    text = FENCED.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text("utf-8"))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name}: {target}"
        assert other.is_relative_to(ROOT), f"{page.name}: {target}"
        if fragment:
            assert fragment in anchors(other), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_picture_is_there_and_says_in_words_what_it_shows(page: Path) -> None:
    for words, target in PICTURE.findall(page.read_text("utf-8")):
        assert (page.parent / target).is_file(), f"{page.name}: {target}"
        assert len(words.split()) > 5, f"{page.name}: {target}"
