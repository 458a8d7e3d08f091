"""Machine-made mutants: edits that can be repeated, and checks that find them."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from mxmoe.conformance.faults.edits import apply_edits
from mxmoe.conformance.faults.edits import edits_of
from mxmoe.conformance.faults.kill import CAUGHT
from mxmoe.conformance.faults.kill import PASSED
from mxmoe.conformance.faults.kill import conclude
from mxmoe.conformance.faults.kill_mutants import QUICK_CHECKS
from mxmoe.conformance.faults.kill_mutants import QUICK_EXAMPLES
from mxmoe.conformance.faults.kill_mutants import kill_mutant
from mxmoe.conformance.faults.kill_mutants import kill_mutants
from mxmoe.conformance.faults.mutants import PLAIN_SOURCE
from mxmoe.conformance.faults.mutants import SCOPE
from mxmoe.conformance.faults.mutants import Mutant
from mxmoe.conformance.faults.mutants import draw_mutants
from mxmoe.conformance.faults.mutants import source_of
from mxmoe.conformance.faults.survivors import EXPLAINED
from mxmoe.conformance.faults.survivors import explained
from mxmoe.conformance.judging.trial import checks
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.registry import load_candidate

DOCUMENT = (Path(__file__).parents[1] / "docs" / "mutants.md").read_text("utf-8")
COUNT = int(os.environ.get("MXMOE_MUTANTS", "200"))

EDITS = PLAIN_SOURCE.edits()


def test_an_edit_changes_one_statement_of_its_function() -> None:
    tree = PLAIN_SOURCE.tree()
    before = ast.unparse(tree).splitlines()
    for edit in EDITS[::7]:
        after = ast.unparse(apply_edits(tree, [edit])).splitlines()
        changed = [n for n in range(len(before)) if before[n] != after[n]]
        assert len(after) == len(before), edit
        assert len(changed) == 1, edit


def test_every_part_of_the_scope_is_edited() -> None:
    assert {edit.function for edit in EDITS} == set(SCOPE)


def test_a_docstring_an_annotation_and_a_name_are_not_edited() -> None:
    text = 'def f(x: int = 1) -> "y":\n    """1 + 1."""\n    return x + 1\n'
    found = {edit.after for edit in edits_of(ast.parse(text), {"f"})}
    assert found == {"return x - 1", "return x + 2", "return x + 0"}


def test_mutants_are_drawn_again_the_same() -> None:
    first, again = (list(draw_mutants(PLAIN_SOURCE, 50, 7)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 50
    assert first != list(draw_mutants(PLAIN_SOURCE, 50, 8))
    assert {len(mutant.edits) for mutant in first} == {1, 2}


def test_a_mutant_without_an_edit_passes() -> None:
    subject = Mutant(PLAIN_SOURCE, ()).subject()
    with repeatable_settings(layers=(0,), examples=1) as settings:
        for check in QUICK_CHECKS[:7]:
            assert conclude(check, subject, settings) == PASSED


def test_drawn_mutants_are_caught() -> None:
    with repeatable_settings(layers=(0,), examples=QUICK_EXAMPLES) as settings:
        for mutant in draw_mutants(PLAIN_SOURCE, 8, 1):
            one = kill_mutant(mutant, settings, QUICK_CHECKS)
            caught = CAUGHT in one.checks.values() or one.reason
            assert caught or explained(str(mutant)), mutant


def test_the_quick_checks_are_checks() -> None:
    assert set(QUICK_CHECKS) <= set(checks())


def test_the_document_explains_the_same_survivors() -> None:
    for edit, reason in EXPLAINED.items():
        assert f"`{edit}`" in DOCUMENT
        assert reason in " ".join(DOCUMENT.split())


@pytest.mark.nightly
@pytest.mark.parametrize("spec", ["plain", "torch_dense"])
def test_every_survivor_is_explained(spec: str) -> None:
    source = PLAIN_SOURCE
    if spec != "plain":
        load_candidate(spec)
        source = source_of(spec)
    mutants = draw_mutants(source, COUNT, 0)
    found = kill_mutants(mutants, profile="dev", step=lambda text: None, full=True)
    lost = [one.fault for one in found if one.survived]
    assert [mutant for mutant in lost if explained(mutant) is None] == []
