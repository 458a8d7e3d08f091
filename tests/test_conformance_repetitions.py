"""A check is found by the words that another process or a bundle is given."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mxmoe.conformance import checks
from mxmoe.conformance.bundles.repetitions import Repetition
from mxmoe.conformance.bundles.repetitions import arguments_of
from mxmoe.conformance.bundles.repetitions import find_check
from mxmoe.conformance.judging import trial
from mxmoe.conformance.laws.layer import LAWS
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.suite.check_files import check_modules
from mxmoe.reference.errors import BadInput

# Read from the sources: the modules' own list is what is tested.
NAMES = sorted(
    node.name
    for path in Path(checks.__path__[0]).glob("test_*.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_check_is_found_by_its_name(name: str) -> None:
    assert find_check(name).__name__ == name


@pytest.mark.parametrize("law", LAWS)
def test_every_law_is_found_by_its_word(law: str, tmp_path: Path) -> None:
    subject = load_candidate("torch_dense")
    settings = Settings(
        checkpoint_folder=tmp_path,
        checkpoint_given=False,
        layers=(0,),
        seconds_per_check=1.0,
    )
    repetition = Repetition(check="test_law_holds", parameters=(("law", law),))
    assert arguments_of(repetition, subject, settings) == {"law": law}


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(BadInput, match="expected the name of a check of the suite"):
        find_check("test_nothing")


def test_the_trial_leaves_out_only_what_needs_an_option_or_other_processes() -> None:
    files = {module.__name__.rpartition(".")[2] for module in check_modules()}
    assert files - set(trial.CHECK_FILES) == {"test_against", "test_l4_distributed"}
