"""`mxmoe bisect` over 64 commits of a real candidate: broken, flaky, wrong otherwise.

Nightly: each commit is prepared, run and judged by the suite two or three times.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mxmoe.conformance.commands.main import main

# Every kind of commit that a search meets, by what its `forward` does last.
KINDS = {
    "right": "return out",
    "wrong": "return out * routing.weights.new_tensor(1.5)",
    "other": "return out.nan_to_num() + (torch.arange(out.shape[1]) == 3)",
    "raises": "raise ValueError('not implemented')",
    "broken": "return out)",
    "flaky": "return out if random.random() < 0.5 else out * float('nan')",
    "dies": "os._exit(9)",
}
CANDIDATE = '''"""Commit {number}."""
import os
import random
import torch
from mxmoe.kernels.torch_dense import candidate as right


class candidate:
    name = "mine"
    capabilities = right.capabilities

    def prepare(self, weights, config, shard, device):
        return right.prepare(weights, config, shard, device)

    def forward(self, prepared, x, routing, *, tactic=None):
        out = right.forward(prepared, x, routing)
        {last}
'''
STEP = ["mxmoe", "bisect-step", "-c", "my_kernel.py", "--check", "test_output_stays"]


def history(culprit: int, others: dict[int, str]) -> list[str]:
    kinds = ["right"] * culprit + ["wrong"] * (64 - culprit)
    for number, kind in others.items():
        kinds[number] = kind
    return [
        CANDIDATE.format(number=number, last=KINDS[kind])
        for number, kind in enumerate(kinds)
    ]


def bisect(repo, run: Path, capsys, code: int) -> dict:
    arguments = ("main~63", "main", "--repo", str(repo.folder), "--run-dir", str(run))
    with pytest.raises(SystemExit) as ended:
        main(["bisect", *arguments, "--json", "--", *STEP])
    printed = capsys.readouterr()
    assert ended.value.code == code, printed.err
    return json.loads(printed.out)


@pytest.mark.nightly
@pytest.mark.parametrize("culprit", [1, 41, 63])
def test_one_culprit_among_commits_that_do_not_build_fail_otherwise_or_are_flaky(
    make_repo, tmp_path: Path, capsys, culprit: int
) -> None:
    near = {culprit - 1, culprit, 0, 63}
    kinds = ("other", "raises", "broken", "flaky", "dies")
    others = {n: kinds[n % 5] for n in range(1, 63) if n % 3 == 1 and n not in near}
    repo = make_repo(history(culprit, others))
    found = bisect(repo, tmp_path / "run", capsys, 0)
    assert found["result"] == "found"
    assert [repo.number(c["hash"]) for c in found["culprits"]] == [culprit]
    # Six if all could be tested. One that cannot be costs its own step, and git goes
    # on beside the middle. Seen: 8 with two skipped, 9 with three; how many are skipped
    # is left to the flaky ones.
    skipped = sum(j["code"] == 125 for j in found["judgements"])
    assert found["steps"] <= 6 + 2 * skipped


@pytest.mark.nightly
def test_a_culprit_next_to_commits_that_cannot_be_tested_is_among_those_named(
    make_repo, tmp_path: Path, capsys
) -> None:
    others = {38: "broken", 39: "dies", 40: "other", 42: "raises"}
    repo = make_repo(history(39, {**others, 41: "wrong"}))
    found = bisect(repo, tmp_path / "run", capsys, 4)
    assert found["result"] == "ambiguous"
    named = sorted(repo.number(c["hash"]) for c in found["culprits"])
    assert named == [38, 39, 40, 41]


SCORED = """import torch
from mxmoe.kernels.torch_dense import candidate as right


class candidate:
    name = "scored"
    capabilities = right.capabilities

    def prepare(self, weights, config, shard, device):
        prepared = dict(right.prepare(weights, config, shard, device))
        prepared["down_bias"] = prepared["down_bias"].roll({roll}, 1)
        return prepared

    def forward(self, prepared, x, routing, *, tactic=None):
        return right.forward(prepared, x, routing) * {scale}
"""


@pytest.mark.nightly
def test_a_score_half_way_between_the_ends_decides(
    make_repo, tmp_path: Path, capsys
) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    rolls, scales = (0, 0, 0, 1, 1, 1), (1, 1, 1, 1, "float('nan')", 1)
    repo = make_repo(
        [
            SCORED.format(roll=roll, scale=scale) + f"# {n}\n"
            for n, (roll, scale) in enumerate(zip(rolls, scales, strict=True))
        ]
    )
    step = [*STEP[:4], "--score", "--questions", "16"]
    arguments = ("main~5", "main", "--repo", str(repo.folder), "--json")
    with pytest.raises(SystemExit) as ended:
        main(["bisect", *arguments, "--run-dir", str(tmp_path / "run"), "--", *step])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert repo.number(document["culprits"][0]["hash"]) == 3
    lesson = json.loads((tmp_path / "run" / "lesson.json").read_text())
    assert len(lesson["good_right"]) > len(lesson["bad_right"])
