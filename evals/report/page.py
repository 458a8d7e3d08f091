"""A report as one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from mxmoe.conformance.escape import for_script
from mxmoe.conformance.escape import printable
from mxmoe.evals.report.as_json import as_json
from mxmoe.evals.report.document import Report

_SIGNS = {"good": "✓", "bad": "✕", "note": "!", "idle": "–", "none": "", "plain": ""}
# A longer cell is folded, so that one answer of a model does not fill the page.
_LONGEST_CELL = 160


def page(report: Report) -> str:
    """The whole page. Its policy allows this style and this script, and no other."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _file("page.css"), _file("page.js")
    return environment.get_template("page.html.j2").render(
        report=report,
        style=Markup(style),
        script=Markup(script),
        data=Markup(for_script(as_json(report))),
        policy=_policy(style, script),
        signs=_SIGNS,
        longest=_LONGEST_CELL,
    )


def _harmless(value: Any) -> Any:
    """Text from outside without control characters; escaping comes after this."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def _file(name: str) -> str:
    folder = resources.files("mxmoe.evals.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded from anywhere; only these two texts are obeyed."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
