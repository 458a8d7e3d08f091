"""constraints.txt pins what the extras install, in versions that fit each other."""

from __future__ import annotations

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mxmoe.evals.gate.reference import FOLDER

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version for name, version in found}


def unfit(requirement: Requirement, pinned: dict[str, str]) -> str | None:
    version = pinned.get(canonicalize_name(requirement.name))
    if version is None:
        return f"{requirement} is not pinned"
    fits = requirement.specifier.contains(version, prereleases=True)
    return None if fits else f"{requirement} is pinned to {version}"


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_what_an_extra_names_is_pinned(extra: str) -> None:
    found = [unfit(Requirement(line), pins()) for line in EXTRAS[extra]]
    assert [said for said in found if said] == []


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_what_an_extra_brings_along_is_pinned_and_fits(extra: str) -> None:
    # torch itself pins the CUDA packages that some of its builds bring.
    pinned, seen, bad = pins(), {("torch", "")}, []
    todo = [Requirement(line) for line in EXTRAS[extra]]
    while todo:
        requirement = todo.pop()
        for chosen in ("", *requirement.extras):
            key = canonicalize_name(requirement.name), chosen
            if key in seen:
                continue
            seen.add(key)
            try:
                named = metadata.requires(requirement.name) or ()
            except metadata.PackageNotFoundError as error:
                pytest.skip(f"needs the extra {extra!r}: {error}")
            for needed in map(Requirement, named):
                if needed.marker is None or needed.marker.evaluate({"extra": chosen}):
                    todo.append(needed)
                    bad.append(unfit(needed, pinned))
    assert sorted({said for said in bad if said}) == []


def test_lm_eval_is_the_version_of_the_protocol() -> None:
    harnesses = {
        json.loads(path.read_bytes())["protocol"]["harness"]
        for path in FOLDER.glob("gsm8k-*.json")
    }
    assert harnesses == {f"lm-eval {pins()['lm-eval']}"}
