"""Other projects' rules on planted faults: docs/peers.md says what a run finds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from mxmoe.conformance.commands.main import main
from mxmoe.evals.peer_rules.compare import compare
from mxmoe.evals.peer_rules.findings import SUITE
from mxmoe.evals.peer_rules.findings import Finding
from mxmoe.evals.peer_rules.findings import Result
from mxmoe.evals.peer_rules.findings import Word
from mxmoe.evals.peer_rules.peers import PEERS
from mxmoe.evals.peer_rules.table import fault_rows

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = (CHECKOUT / "docs" / "peers.md").read_text("utf-8")
README = (CHECKOUT / "README.md").read_text("utf-8")

# The seed's fault, its like with another name, one that all see, one that none of
# these sees; rules whose data are small.
SUBSET = (
    "bias_not_shuffled_fc1",
    "scales_one_block_ahead",
    "last_k_block_dropped",
    "routing_weights_half_a_percent_off",
)
SMALL = ("sglang_aiter", "tensorrt_llm_w4a16")
VARIANTS = ("plain", "bf16_slots")

# These read memory that nobody wrote: what a rule sees is chance.
BY_CHANCE = {"k_tail_unmasked", "unowned_rows_uninit"}

Rows = dict[str, dict[str, str]]


def rows_of(lines: list[list[str]]) -> Rows:
    """First cell -> column title -> cell."""
    titles, *rows = lines
    return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}


def table_in_page(first_title: str) -> Rows:
    """The table of docs/peers.md whose first column has this title."""
    (text,) = re.findall(
        rf"^\| {first_title} \|.*?(?=^$)", PAGE, re.MULTILINE | re.DOTALL
    )
    lines = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
    ]
    return rows_of([lines[0], *lines[2:]])


@pytest.fixture(scope="module")
def subset() -> Result:
    return compare(seeds=1, faults=SUBSET, peers=SMALL, correct=VARIANTS, jobs=1)


@pytest.mark.nightly
def test_the_page_shows_what_a_run_finds(subset: Result) -> None:
    shown = table_in_page("fault")
    found = rows_of(fault_rows(subset))
    assert set(found) == set(SUBSET)
    for fault, row in found.items():
        for title, word in row.items():
            if title != "effect":
                assert shown[fault][title] == word, f"{fault}, {title}"


@pytest.mark.nightly
def test_this_suite_catches_the_subset_and_no_correct_variant(subset: Result) -> None:
    assert subset.caught(SUITE, "suite") == len(SUBSET)
    assert subset.alarms(SUITE, "suite") == []


@pytest.mark.nightly
def test_the_whole_page_shows_what_a_run_finds() -> None:
    found, shown = rows_of(fault_rows(compare(seeds=1))), table_in_page("fault")
    assert set(found) == set(shown)
    for fault in set(found) - BY_CHANCE:
        for row in (found[fault], shown[fault]):
            del row["effect"]
        assert found[fault] == shown[fault], fault


def test_the_totals_of_the_page_are_those_of_its_table() -> None:
    faults, totals = table_in_page("fault"), table_in_page("rule")
    assert len(totals) == len(PEERS) + 2
    for peer in PEERS.values():
        column = [row[peer.title] for row in faults.values()]
        own = next(t for t in totals[peer.title] if t.endswith("its own data"))
        assert totals[peer.title][own] == str(column.count("caught"))
        assert own.startswith(f"of {len(faults)} faults")
    assert {row["mxmoe"] for row in faults.values()} == {"caught"}


def test_the_readme_quotes_the_page() -> None:
    totals = table_in_page("rule")
    own = next(t for t in next(iter(totals.values())) if t.endswith("its own data"))
    figures = [int(totals[peer.title][own]) for peer in PEERS.values()]
    (found,) = (part for part in README.split("\n\n") if "docs/peers.md" in part)
    line = " ".join(found.split())
    assert f"between {min(figures)} and {max(figures)} of " in line
    assert f"of {own.split()[1]} planted faults" in line


def test_every_rule_is_on_the_page_with_its_source() -> None:
    for peer in PEERS.values():
        assert peer.title in PAGE
        assert peer.source in PAGE
        assert peer.says in PAGE


@pytest.fixture
def expected() -> torch.Tensor:
    return torch.randn(64, 512, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("name", PEERS)
def test_a_rule_accepts_what_it_expects_and_rejects_zeros(
    name: str, expected: torch.Tensor
) -> None:
    rule = PEERS[name].rule
    assert rule(expected.clone(), expected)
    assert not rule(torch.zeros_like(expected), expected)


BLIND_TO_ONE_TOKEN = {
    "flashinfer_unified",
    "flashinfer_fp4_moe",
    "flashinfer_bench_moe",
    "vllm_ocp_mx",
    "tensorrt_llm_w4a16",
    "tensorrt_llm_w4a8",
}


@pytest.mark.parametrize("name", PEERS)
def test_a_share_of_elements_is_blind_to_one_token(
    name: str, expected: torch.Tensor
) -> None:
    """One token of 64 is 1.6 % of the elements."""
    output = expected.clone()
    output[-1] = 0
    assert PEERS[name].rule(output, expected) == (name in BLIND_TO_ONE_TOKEN)


@pytest.mark.parametrize("name", PEERS)
def test_what_a_rule_says_of_nan(name: str, expected: torch.Tensor) -> None:
    output = expected.clone()
    output[0] = torch.nan
    passing = ("flashinfer_unified", "tensorrt_llm_w4a16", "tensorrt_llm_w4a8")
    assert PEERS[name].rule(output, expected) == (name in passing)
    whole = torch.full_like(expected, torch.nan)
    assert PEERS[name].rule(whole, expected) == name.startswith("tensorrt_llm")


def result_of(*words: Word) -> Result:
    findings = (
        Finding(subject="f", rule="r", data="own", seed=seed, word=word)
        for seed, word in enumerate(words)
    )
    return Result(
        rules=("r",), effects={"f": 1.0}, silent=(), correct=(), findings=(*findings,)
    )


@pytest.mark.parametrize(
    ("words", "cell"),
    [
        ((Word.CAUGHT, Word.CAUGHT), "caught"),
        ((Word.CAUGHT, Word.ACCEPTED), "caught 1/2"),
        ((Word.UNSEEN, Word.ACCEPTED), "accepted"),
        ((Word.UNSEEN,), "unseen"),
    ],
)
def test_a_cell_says_how_many_seeds_catch(words: tuple[Word, ...], cell: str) -> None:
    result = result_of(*words)
    assert result.cell("f", "r", "own") == cell
    assert result.caught("r", "own") == (cell == "caught")


def test_the_command_writes_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared(**asked: object) -> Result:
        assert asked["faults"] == ["f"]
        return Result(
            rules=("sglang_aiter",),
            effects={"f": float("inf")},
            silent=("g",),
            correct=("plain",),
            findings=(
                Finding(
                    subject="f", rule=SUITE, data="suite", seed=0, word=Word.CAUGHT
                ),
            ),
        )

    monkeypatch.setattr("mxmoe.evals.peer_rules.compare.compare", compared)
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        main(["peers", "--fault", "f", "--json", "--run-dir", str(run)])
    assert ended.value.code == 0
    said = capsys.readouterr().out.splitlines()
    assert json.loads(said[-1])["effects"] == {"f": "inf"}
    assert said[-2] == f"run {run}"
    assert (run / "table.txt").read_text().splitlines() == said[:-2]
    assert (run / "peers.csv").read_text().splitlines()[
        1
    ] == "f,inf,mxmoe,suite,0,caught"
    assert json.loads((run / "run.json").read_text())["silent"] == ["g"]


@pytest.mark.parametrize("option", ["--fault", "--peer"])
def test_an_unknown_name_is_refused(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["peers", option, "nothing", "--run-dir", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert f"{option}: expected one of" in capsys.readouterr().err
