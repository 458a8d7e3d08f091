"""The worked example and the constants of docs/bounds.md are those of the code."""

from __future__ import annotations

import contextlib
import io
import math
import re
from pathlib import Path

import pytest

from mxmoe.conformance.bounds import propagated as bounds
from mxmoe.conformance.residual import gains as residual_gains
from mxmoe.conformance.residual import structure as residual_structure
from mxmoe.reference.types import ARITHMETIC

PAGE = (Path(__file__).parents[1] / "docs" / "bounds.md").read_text("utf-8")
README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, flags=re.S)


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """What each example prints, the second going on from the first."""
    names: dict[str, object] = {}
    found = []
    for code, _ in EXAMPLES:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "bounds.md", "exec"), names)
        found.append(out.getvalue())
    return found


def test_the_examples_print_what_is_shown(printed: list[str]) -> None:
    assert len(printed) == 2
    assert printed == [shown for _, shown in EXAMPLES]


def test_the_terms_of_the_example_add_up_to_what_the_readme_shows(
    printed: list[str],
) -> None:
    *terms, allowed = map(
        float, re.findall(r"^(\S+e\S+)  ", printed[0], flags=re.M)[:6]
    )
    assert math.isclose(sum(terms), allowed, rel_tol=1e-3)
    assert f"allowed {allowed:.3g} (143x)" in README


def test_the_constants_of_the_page_are_those_of_the_code() -> None:
    assert f"c = {bounds.CONFIDENCE:.2f} (below)" in PAGE
    assert f"c′ = {residual_gains.CONFIDENCE:.2f}" in PAGE
    assert bounds.NIGHT_ELEMENTS == 3e9
    assert 2 * bounds.FALSE_ALARMS == 1e-3
    assert residual_structure.SMALLEST_GROUP == 16
    assert f"{residual_structure.CHANCE:.1e}" == "8.9e-13"
    assert residual_gains.EFFECT == 2**-12
    assert f"2⁻¹² = {100 * residual_gains.EFFECT:.3f} %" in PAGE
    # 16 times the largest gain error of the table.
    assert math.isclose(residual_gains.EFFECT, 16 * 1.5e-5, rel_tol=0.02)
    hard = math.sqrt(3 * 2880) / bounds.CONFIDENCE
    assert f"{hard:.0f} for the 2880 lanes" in PAGE
    strict = 2 * bounds.NIGHT_ELEMENTS / (bounds.FALSE_ALARMS / 1000)
    assert f"moves it to {math.sqrt(2 * math.log(strict)):.1f}" in PAGE


def test_the_table_of_rounding_points_is_that_of_the_classes() -> None:
    (header,) = re.findall(r"^\| rounding point \| (.*) \|$", PAGE, flags=re.M)
    assert [name.strip("`") for name in header.split(" | ")] == list(ARITHMETIC)
    rows = {
        "sums of both GEMMs": [
            "float32, may truncate" if a.tensor_core else "float32, to nearest"
            for a in ARITHMETIC.values()
        ],
        "the activation, before GEMM2": [a.intermediate for a in ARITHMETIC.values()],
        "each slot's `down`": [a.slot for a in ARITHMETIC.values()],
        "the output": [a.output for a in ARITHMETIC.values()],
    }
    for name, cells in rows.items():
        words = " | ".join(str(cell).removeprefix("torch.") for cell in cells)
        assert f"| {name} | {words} |" in PAGE
