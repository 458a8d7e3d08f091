"""The files of a report: each has the whole content, and no channel obeys a name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from mxmoe.conformance.escape import printable
from mxmoe.conformance.suite import reporting
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.commands import report as command
from mxmoe.evals.report.as_json import as_json
from mxmoe.evals.report.build import build_report
from mxmoe.evals.report.document import Report
from mxmoe.evals.report.markdown import LONGEST
from mxmoe.evals.report.write import write_report
from mxmoe.reference.errors import BadInput

Runs = dict[str, Path]
Hostile = dict[str, str]
# What the pages are made of; a name that became markup would bring another.
ELEMENTS = (
    "html head meta link title style body a svg defs pattern path rect line text b p "
    "span h1 h2 h3 header main section ul ol li dl div dt dd nav article figure strong "
    "figcaption details summary pre code table caption thead tbody tr th td footer "
    "script"
)


class Page(HTMLParser):
    """Elements, links, the JSON inside, and all text that is read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self._read: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()
        self.read = "".join(self._read)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self._inside = tag
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("href", "src"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self._read.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r:.80}")


@pytest.fixture(scope="module")
def report(runs: Runs) -> Report:
    chosen = ("right", "wrong", "gate00", "faults", "bench")
    return build_report([runs[name] for name in chosen])


@pytest.fixture(scope="module")
def folder(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("written")
    write_report(report, made)
    return made


@pytest.fixture(scope="module")
def hostile_folder(
    hostile_runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    *_, baseline, _ = hostile_runs
    write_report(build_report(hostile_runs, baseline=baseline), made)
    return made


@pytest.fixture(scope="module")
def hostile_page(hostile_folder: Path) -> Page:
    return Page((hostile_folder / "report.html").read_text("utf-8"))


def test_page_and_json_hold_the_same_document(folder: Path, report: Report) -> None:
    page = Page((folder / "report.html").read_text("utf-8"))
    document = json.loads((folder / "report.json").read_text("utf-8"))
    assert json.loads(page.scripts[0]) == document == as_json(report)
    for one in report.statements:
        assert one.answer in page.read
        assert one.reason in page.read
    for part in report.sections:
        assert all(sentence in page.read for sentence in part.says)
        for table in part.tables:
            assert all(cell.text in page.read for row in table.rows for cell in row)


def test_the_page_names_nothing_outside_of_itself(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    page = Page(text)
    assert all(link.startswith(("#", "data:,")) for link in page.links)
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert "default-src &#39;none&#39;; style-src &#39;sha256-" in text
    assert not page.attributes & {"style", "onclick", "onload", "onerror"}


def test_junit_counts_every_check_fault_and_gate(folder: Path) -> None:
    root = ElementTree.parse(folder / "junit.xml").getroot()
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == (
        "9",
        "4",
        "1",
    )
    assert len(root) == 4
    assert len(root.findall(".//testcase")) == 9
    failed = [case.get("name") for case in root.findall(".//testcase[failure]")]
    assert failed[-1] == "another_fault, seed 0"
    (skipped,) = root.findall(".//skipped")
    assert skipped.get("message") == "declares no tactics"


def test_markdown_begins_with_the_answers(folder: Path, report: Report) -> None:
    text = (folder / "report.md").read_text("utf-8")
    assert text.index("wrong: No") < text.index("right: Yes, as far as judged")
    assert "fc1_bias: missing: row shuffle 32" in text
    for part in report.sections:
        assert part.title in text


def test_hostile_text_is_text_in_the_page(
    hostile_folder: Path, hostile_page: Page, hostile: Hostile
) -> None:
    raw = (hostile_folder / "report.html").read_bytes().decode("utf-8")
    page = hostile_page
    assert set(page.elements) <= set(ELEMENTS.split())
    assert page.elements["script"] == 2
    assert page.elements["style"] == 1
    assert all(link.startswith(("#", "data:,")) for link in page.links)
    assert not {name for name in page.attributes if name.startswith("on")}
    assert not {c for c in set(raw) if c != "\n" and not c.isprintable()}
    for name, text in hostile.items():
        assert printable(text).strip()[:100] in page.read, name


def test_hostile_text_is_whole_in_json(
    hostile_folder: Path, hostile_page: Page, hostile: Hostile
) -> None:
    document = json.loads((hostile_folder / "report.json").read_text("ascii"))
    names = {one["candidate"] for one in document["statements"]}
    assert set(hostile.values()) <= names
    assert json.loads(hostile_page.scripts[0]) == document


def test_hostile_text_is_text_in_junit(hostile_folder: Path, hostile: Hostile) -> None:
    root = ElementTree.parse(hostile_folder / "junit.xml").getroot()
    kinds = {element.tag for element in root.iter()}
    assert kinds == {"testsuites", "testsuite", "testcase", "failure", "skipped"}
    told = [element.text or "" for element in root.iter("failure")]
    for name, text in hostile.items():
        assert any(printable(text) in one for one in told), name


def test_hostile_text_is_code_in_markdown(hostile_folder: Path) -> None:
    text = (hostile_folder / "report.md").read_bytes().decode("utf-8")
    assert len(text) <= LONGEST + 500
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    allowed = re.compile(
        r"\A(</?details>|<summary><b>[^<>]*</b>[^<>]*</summary>|\s)*\Z"
    )
    for token in tokens:
        if token.type == "html_block":
            assert allowed.match(token.content), token.content
        for child in token.children or []:
            assert child.type in {
                *("text", "code_inline", "softbreak"),
                *("strong_open", "strong_close"),
            }, child


def test_the_command_writes_the_files_and_says_the_answer(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.report([runs["wrong"]], out=tmp_path / "out") is ExitCode.PASS
    said = capsys.readouterr().out
    assert said.startswith("wrong: No. fc1_bias: missing: row shuffle 32")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["junit.xml", "report.html", "report.json", "report.md"]


def test_the_command_prints_the_document(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.report([runs["wrong"]], out=tmp_path, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "report.json").read_text())


def test_a_terminal_gets_no_hostile_text_of_a_report(
    hostile_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.report([hostile_runs[0]], out=tmp_path)
    said = capsys.readouterr().out
    assert not {c for c in said if c != "\n" and not c.isprintable()}


def test_a_folder_that_cannot_be_written_is_refused(
    report: Report, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="expected a folder that can be written"):
        write_report(report, tmp_path / "file")


def test_without_the_extra_the_command_names_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith("mxmoe.evals.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(BadInput, match="expected the extra 'report'"):
        command.report([runs["right"]])


@pytest.mark.nightly
def test_check_writes_the_report_of_its_run(tmp_path: Path) -> None:
    code = "from mxmoe.conformance.commands.main import main; main()"
    words = "check -c torch_dense -k decode --run-dir run --report-dir page --json"
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exit_code"] == 0
    assert "report page/report.html" in done.stderr
    document = json.loads((tmp_path / "page" / "report.json").read_text())
    (one,) = document["statements"]
    assert one["candidate"] == "torch_dense"
    assert one["answer"] == "Yes, as far as judged"


def test_without_a_report_writer_nothing_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "GROUP", "mxmoe.nothing")
    with pytest.raises(BadInput, match="expected an entry point of the group"):
        reporting.find_reports()
