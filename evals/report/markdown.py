"""A report as Markdown that fits into a comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence

from mxmoe.conformance.escape import for_markdown
from mxmoe.conformance.escape import for_markdown_block
from mxmoe.evals.report.document import FailureGroup
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Report
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Statement
from mxmoe.evals.report.document import Table

# GitHub refuses a comment of more than 65536 characters.
LONGEST = 60_000
_MOST_ROWS, _MOST_GROUPS, _LONGEST_TEXT = 12, 5, 1500
_SIGNS = {
    Mark.GOOD: "✅",
    Mark.BAD: "❌",
    Mark.NOTE: "⚠️",
    Mark.IDLE: "➖",
    Mark.NONE: "",
    Mark.PLAIN: "",
}


def markdown(report: Report) -> str:
    """The statement open, each section that has data folded; cut where it is long."""
    text = f"## {for_markdown(report.title)}\n\n"
    for one in report.statements:
        text += "\n".join(_statement(one)) + "\n\n"
    empty = []
    for number, section in enumerate(report.sections):
        if section.empty:
            empty.append(f"{section.title}: `{section.fill}`")
            continue
        part = "\n".join(_section(section)) + "\n\n"
        if len(text) + len(part) > LONGEST:
            names = ", ".join(one.title for one in report.sections[number:])
            return text + f"Too long for a comment, see the page for: {names}.\n"
        text += part
    if empty:
        text += "No data for: " + "; ".join(empty) + ".\n"
    return text


def _statement(one: Statement) -> Iterator[str]:
    sign = _SIGNS[one.mark]
    yield f"### {sign} {for_markdown(one.candidate)}: {one.answer}"
    yield ""
    yield for_markdown(one.reason)
    yield ""
    yield "| " + " | ".join(f"{x.level} {x.name}" for x in one.levels) + " |"
    yield "|" + "---|" * len(one.levels)
    yield "| " + " | ".join(f"{_SIGNS[x.mark]} {x.said}" for x in one.levels) + " |"
    yield ""
    for name, value in one.facts:
        yield f"- {name}: {for_markdown(value)}"
    for caveat in one.caveats:
        yield f"- {for_markdown(caveat)}"


def _section(section: Section) -> Iterator[str]:
    count = f" ({section.count})" if section.count else ""
    yield f"<details><summary><b>{section.title}</b>{count}</summary>"
    for sentence in section.says:
        yield ""
        yield for_markdown(sentence, longest=1000)
    for group in section.groups[:_MOST_GROUPS]:
        yield from _group(group)
    if len(section.groups) > _MOST_GROUPS:
        yield ""
        yield f"{len(section.groups) - _MOST_GROUPS} more explanations: see the page."
    for table in (*section.tables, *section.details):
        yield from _table(table)
    for picture in section.pictures:
        yield ""
        yield f"{for_markdown(picture.title)}: {for_markdown(picture.says)}"
    yield ""
    yield "</details>"


def _group(group: FailureGroup) -> Iterator[str]:
    yield ""
    count = len(group.checks)
    checks = f", {count} check{'s' * (count != 1)}" if count else ""
    yield f"**{for_markdown(group.candidate)}** {for_markdown(group.level)}{checks}:"
    yield for_markdown(group.why)
    yield ""
    text = group.text
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}…"
    yield for_markdown_block(text)


def _table(table: Table) -> Iterator[str]:
    yield ""
    yield f"**{for_markdown(table.caption)}**"
    yield ""
    yield _row([for_markdown(column) for column in table.columns])
    yield "|" + "---|" * len(table.columns)
    for row in table.rows[:_MOST_ROWS]:
        yield _row([f"{_SIGNS[cell.mark]} {for_markdown(cell.text)}" for cell in row])
    if len(table.rows) > _MOST_ROWS:
        yield ""
        yield f"{len(table.rows) - _MOST_ROWS} more rows: see the page."


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.strip() for cell in cells) + " |"
