"""The page in a real browser: it renders, sorts, filters, and obeys no hostile text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mxmoe.evals.report.build import build_report
from mxmoe.evals.report.write import write_report

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright, which drives the browser"
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium: apt-get install chromium"
)

Runs = dict[str, Path]
PHONE = {"width": 375, "height": 812}
DESK = {"width": 1280, "height": 900}

# Contrast as WCAG 2 defines it, of every element that has text of its own against the
# backgrounds behind it, blended.
CONTRAST = """() => {
  const parse = (c) => {
    const n = c.match(/[\\d.]+/g).map(Number);
    return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1];
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]));
  const light = (c) => {
    const [r, g, b] = c.map((v) => {
      v /= 255;
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || ["SCRIPT", "STYLE", "TITLE"].includes(e.tagName)) continue;
    const stack = [];
    for (let p = e; p; p = p.parentElement) {
      stack.push(parse(getComputedStyle(p).backgroundColor));
    }
    let back = [255, 255, 255];
    for (const c of stack.reverse()) back = over(c, back);
    const style = getComputedStyle(e);
    const ink = over(parse(e.closest("svg") ? style.fill : style.color), back);
    const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push([e.tagName, e.className, ratio]);
  }
  return low.slice(0, 5);
}"""

STRUCTURE = """() => ({
  levels: [...document.querySelectorAll("h1,h2,h3,h4")].map((h) => +h.tagName[1]),
  landmarks: ["header", "main", "nav", "footer"].map(
    (name) => document.querySelectorAll(`body > ${name}, main > nav`).length > 0),
  tables: document.querySelectorAll("table").length,
  captions: document.querySelectorAll("table > caption").length,
  unscoped: document.querySelectorAll("th:not([scope])").length,
  rows: document.querySelectorAll("tbody tr").length,
  rowHeads: document.querySelectorAll("tbody tr > th[scope=row]:first-child").length,
  unnamed: document.querySelectorAll(
    "svg:not(.defs):not([role=img][aria-label])").length,
  pictures: document.querySelectorAll("figure svg").length,
  twice: [...document.querySelectorAll("[id]")].length
    - new Set([...document.querySelectorAll("[id]")].map((e) => e.id)).size,
  hashes: [...document.querySelectorAll("a[href^='#']")].filter(
    (a) => !document.getElementById(a.hash.slice(1))).length,
})"""


@dataclass
class Opened:
    """A page, and all that it did which it should not."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def written(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = ["right", "wrong", "faults", "bench", "locate", "compare", "bisect"]
    chosen += [f"gate{night:02d}" for night in range(20)]
    folder = tmp_path_factory.mktemp("page")
    report = build_report([runs[name] for name in chosen], baseline=runs["gate00"])
    return write_report(report, folder)[0]


@pytest.fixture(scope="module")
def hostile_page(
    hostile_runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("hostile-page")
    return write_report(build_report(hostile_runs), folder)[0]


def opened(browser: Any, file: Path, **options: Any) -> Opened:
    context = browser.new_context(**({"viewport": DESK} | options))
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("dialog", lambda dialog: refuse(found, dialog))
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.goto(file.as_uri())
    return found


def refuse(found: Opened, dialog: Any) -> None:
    """Note it; an open dialog would hold everything up."""
    found.said.append(dialog.message)
    dialog.dismiss()


def widths(page: Any) -> tuple[int, int]:
    scroll, seen = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    return scroll, seen


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        (PHONE, "light"),
        (DESK, "dark"),
        pytest.param(PHONE, "dark", marks=pytest.mark.nightly),
        pytest.param(DESK, "light", marks=pytest.mark.nightly),
    ],
)
def test_it_renders_readably(
    browser: Any, written: Path, scheme: str, size: dict[str, int]
) -> None:
    found = opened(browser, written, viewport=size, color_scheme=scheme)
    scroll, seen = widths(found.page)
    assert scroll <= seen
    assert found.page.evaluate(CONTRAST) == []
    answer = found.page.locator(".answer").first
    assert answer.is_visible()
    assert answer.bounding_box()["y"] < size["height"] / 2
    assert (found.said, found.asked) == ([], [written.as_uri()])


def test_its_structure_is_for_everybody(browser: Any, written: Path) -> None:
    found = opened(browser, written).page.evaluate(STRUCTURE)
    levels = found["levels"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(found["landmarks"])
    assert found["tables"] == found["captions"] > 8
    assert found["rows"] == found["rowHeads"]
    assert found["pictures"] >= 10
    assert [found[n] for n in ("unscoped", "unnamed", "twice", "hashes")] == [0] * 4


def numbers(table: Any, column: int) -> list[int]:
    cells = table.locator(f"tbody tr td:nth-child({column})")
    return [int(text) for text in cells.all_inner_texts()]


def test_a_heading_sorts_by_keyboard_and_says_so(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    table = page.locator("#trend table").first
    heading = table.locator("thead th").nth(2)
    before = numbers(table, 3)
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert numbers(table, 3) == sorted(before) != before
    page.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") == "descending"
    assert numbers(table, 3) == sorted(before, reverse=True)


def test_numbers_sort_by_value_and_not_by_their_words(
    browser: Any, written: Path
) -> None:
    page = opened(browser, written).page
    table = page.locator("#speed table").first
    table.locator("thead button", has_text="ours").click()
    times = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert times == ["11.0 ±1.0", "74.0 ±1.0"]
    table.locator("thead button", has_text="tokens").click()
    table.locator("thead button", has_text="tokens").click()
    assert table.locator("tbody th").all_inner_texts() == ["64", "1"]


def test_rows_are_filtered_by_words_and_by_verdict(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    box = page.locator("#flips .filter").first
    rows = page.locator("#flips table").first.locator("tbody tr")
    assert rows.count() == 20
    box.locator("input").fill("GATE1")
    assert box.locator("output").inner_text() == "10 of 20 rows"
    assert rows.filter(visible=True).count() == 10
    box.locator("select").select_option("bad")
    assert box.locator("output").inner_text() == "5 of 20 rows"
    box.locator("input").fill("nothing has this")
    assert rows.filter(visible=True).count() == 0


def test_without_scripts_all_of_it_can_be_read(browser: Any, written: Path) -> None:
    found = opened(browser, written, java_script_enabled=False)
    page = found.page
    assert page.locator("#trend tbody tr").count() == 20
    assert page.locator("thead button, .filter").count() == 0
    assert page.locator("#failures pre").first.is_visible()


def test_it_prints_with_nothing_folded_or_cut(browser: Any, written: Path) -> None:
    page = opened(browser, written).page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav").first.is_visible()
    cut = page.evaluate(
        "[...document.querySelectorAll('.table-box, pre')].filter("
        "(e) => e.scrollHeight > e.clientHeight + 2).length"
    )
    assert cut == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0


def test_hostile_text_is_inert(browser: Any, hostile_page: Path) -> None:
    found = opened(browser, hostile_page, viewport=PHONE)
    page = found.page
    scroll, seen = widths(page)
    assert scroll <= seen
    # Sorting and filtering move the text again.
    for button in page.locator("thead button").all()[:12]:
        button.click()
    for box in page.locator(".filter input").all()[:3]:
        box.fill("<img")
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    page.wait_for_timeout(100)
    assert (found.said, found.asked) == ([], [hostile_page.as_uri()])
    assert (
        page.locator("iframe, img, script:not([type]):not(:last-of-type)").count() == 0
    )
    names = page.locator(".statement .name").all_inner_texts()
    assert "<script>alert('mxmoe')</script>" in names


def test_the_policy_stops_a_script_that_got_in_all_the_same(
    browser: Any, written: Path, tmp_path: Path
) -> None:
    """The second lock, tried with the first one open."""
    planted = tmp_path / "planted.html"
    text = written.read_text("utf-8")
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    planted.write_text(text.replace("<footer>", f"<footer>{evil}"), encoding="utf-8")
    found = opened(browser, planted)
    found.page.wait_for_timeout(100)
    assert found.said
    assert all("Content Security Policy" in line for line in found.said)
