"""Predicates that are checks of the suite: by name, or the one of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxmoe.conformance.bundles.bundle import Bundle
from mxmoe.conformance.bundles.replay import replay_bundle
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.suite.check_run import run_check
from mxmoe.conformance.suite.session import Options


@dataclass(frozen=True, kw_only=True)
class ByCheck:
    """Every check whose name matches `keyword`, of the candidate in `options`."""

    options: Options
    keyword: str

    def __call__(self, folder: Path) -> None:
        """Judge into `folder`, as `mxmoe check` does."""
        run_check(self.options, keyword=self.keyword, run_folder=folder)


@dataclass(frozen=True, kw_only=True)
class ByBundle:
    """The check of `bundle` on the inputs that it kept."""

    bundle: Bundle
    options: Options

    def __call__(self, folder: Path) -> None:
        """Judge into `folder`, as `mxmoe replay` does."""
        found = replay_bundle(self.bundle, self.options)
        check = self.bundle.repetition.check
        writer = open_run(folder)
        writer.describe(command="bisect-step", bundle=str(self.bundle.folder))
        writer.verdict(
            VerdictLine(
                check=f"bundle::{check}",
                candidate=found.name,
                level="",
                verdict=found.verdict,
                reason="" if found.verdict.failed else found.text,
                text=found.text if found.verdict.failed else "",
                case=self.bundle.case,
            )
        )
