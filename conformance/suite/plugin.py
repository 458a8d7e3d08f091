"""The suite inside pytest: options, parameters, fixtures, verdicts.

Active only when `plugin` found that our tests are asked for.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from mxmoe.conformance.bundles.repetitions import words_of
from mxmoe.conformance.cases.profiles import DEFAULT
from mxmoe.conformance.cases.profiles import register_profiles
from mxmoe.conformance.escape import printable
from mxmoe.conformance.isolation.judge import CalledElsewhere
from mxmoe.conformance.isolation.judge import IsolatedJudge
from mxmoe.conformance.isolation.judge import judge_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.plugin import only_tests_of_mxmoe
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite import collection
from mxmoe.conformance.suite import hooks
from mxmoe.conformance.suite.expected import SKIP
from mxmoe.conformance.suite.known_failures import as_expected
from mxmoe.conformance.suite.known_failures import id_of
from mxmoe.conformance.suite.known_failures import known_failure
from mxmoe.conformance.suite.options import MARKERS
from mxmoe.conformance.suite.options import add_options
from mxmoe.conformance.suite.options import session_of
from mxmoe.conformance.suite.outcomes import JUDGE
from mxmoe.conformance.suite.outcomes import NOT_JUDGED
from mxmoe.conformance.suite.outcomes import verdict_line
from mxmoe.conformance.suite.places import Place
from mxmoe.conformance.suite.run_facts import now
from mxmoe.conformance.suite.run_facts import session_facts
from mxmoe.conformance.suite.session import Session
from mxmoe.conformance.verdict import NotJudged
from mxmoe.reference.errors import BadInput

SESSION = pytest.StashKey[Session]()
VERDICTS = pytest.StashKey[list[VerdictLine]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    config.pluginmanager.register(collection, "mxmoe-collection")
    register_profiles()
    profile = config.getoption("--hypothesis-profile", None) or DEFAULT
    hypothesis_settings.load_profile(profile)
    given = [p for p in config.pluginmanager.get_plugins() if isinstance(p, Session)]
    if not given and only_tests_of_mxmoe(config):
        return
    session = given[0] if given else session_of(config, profile)
    config.stash[SESSION] = session
    config.stash[VERDICTS] = []
    if not given and session.settings.run is not None:
        asked = {"marker": config.option.markexpr, "keyword": config.option.keyword}
        facts = session_facts(session, command="pytest", profile=profile, **asked)
        session.settings.run.describe(**facts)


def pytest_unconfigure(config: pytest.Config) -> None:
    if SESSION in config.stash:
        config.stash[SESSION].close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    if SESSION not in config.stash:
        return []
    session = config.stash[SESSION]
    lines = []
    for subject in session.subjects:
        away = subject.unavailable()
        claims = subject.capabilities
        lines.append(
            f"candidate {subject.name}: "
            + (printable(f"not available: {away}") if away else f"on {subject.device}")
            + f", class {claims.arithmetic}, layout {claims.layout or 'its own'}"
        )
    settings = session.settings
    source = (
        settings.checkpoint_folder if settings.checkpoint_given else "embedded default"
    )
    numbers = ", ".join(map(str, settings.layers))
    lines.append(
        f"checkpoint {source}: {settings.checkpoint.config.label()}, layers {numbers}"
    )
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "judge" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[SESSION]
    places = getattr(metafunc.function, "places", None)
    parameters = []
    for subject in session.subjects:
        found = (
            [Place("", None)] if places is None else places(session.settings, subject)
        )
        for place in found:
            name = f"{subject.name}-{place.id}" if place.id else subject.name
            parameters.append(pytest.param((subject, place), id=name))
    metafunc.parametrize("_subject_and_place", parameters, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before -k and -m leave any out
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if SESSION not in config.stash:
        return
    settings, expected = config.stash[SESSION].settings, config.stash[SESSION].expected
    if expected is not None:
        ids = [found for item in items if (found := id_of(item)) is not None]
        try:
            expected.check_matched(ids)
        except BadInput as error:
            raise pytest.UsageError(str(error)) from error
    left_out = [
        item
        for item in items
        if any(
            getattr(settings, marker.args[0]) is None
            for marker in item.iter_markers("needs_option")
        )
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    collection.put_in_order(items)


@pytest.fixture
def _subject_and_place(request: pytest.FixtureRequest) -> tuple[Subject, Place]:
    found: tuple[Subject, Place] = request.param
    return found


@pytest.fixture
def judge(
    request: pytest.FixtureRequest, _subject_and_place: tuple[Subject, Place]
) -> Judge:
    """The judge of this check: one candidate, its settings, a fresh record."""
    subject, place = _subject_and_place
    settings = request.config.stash[SESSION].settings
    item = request.node
    judge = item.stash[JUDGE] = judge_of(
        subject,
        settings,
        item.originalname,
        place=place.id,
        parameters=words_of(item.function, item.callspec.params),
    )
    reason = subject.unavailable()
    if reason is not None:
        pytest.skip(printable(f"not available: {reason}"))
    entry = known_failure(request.config.stash[SESSION].expected, item)
    if entry is not None and entry.kind == SKIP:
        pytest.skip(printable(entry.reason()))
    spent = judge.host.losses.spent() if isinstance(judge, IsolatedJudge) else None
    if spent is not None:
        pytest.skip(printable(spent))
    return judge


@pytest.fixture
def place(_subject_and_place: tuple[Subject, Place]) -> Any:
    """What `for_each` repeats the check over."""
    return _subject_and_place[1].value


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    try:
        try:
            return (yield)
        except CalledElsewhere:
            pyfuncitem.stash[JUDGE].whole_check()
            return True
    except NotJudged as refusal:
        pyfuncitem.stash[NOT_JUDGED] = refusal
        pytest.skip(printable(f"{refusal.verdict}: {refusal.reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    ended = call.when == "call" or (call.when == "setup" and not report.passed)
    if not ended:
        return report
    error = None if call.excinfo is None else call.excinfo.value
    line = verdict_line(item, report, error)
    if line is not None:
        if line.verdict.failed and line.text:
            report.longrepr = printable(line.text)
        settings = item.config.stash[SESSION].settings
        if line.verdict.failed and line.check.split("::")[1].startswith(
            collection.PLAIN_OUTPUT
        ):
            settings.wrong_outputs.add(line.candidate)
        line = as_expected(item.config.stash[SESSION].expected, item, report, line)
        item.config.stash[VERDICTS].append(line)
        run = settings.run
        if run is not None:
            run.verdict(line)
        item.ihook.pytest_mxmoe_verdict(line=line)
    return report


def idle_candidates(session: Session, verdicts: list[VerdictLine]) -> list[str]:
    """Sentences for candidates that were to be judged and were not, at all."""
    asked = {line.candidate for line in verdicts}
    judged = {line.candidate for line in verdicts if line.verdict.judged}
    if asked and not judged:
        return ["none of the requested checks ran"]
    if not session.requested:
        return []
    return [f"none of the checks of {name} ran" for name in sorted(asked - judged)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if SESSION not in config.stash or config.option.collectonly:
        return
    idle = idle_candidates(config.stash[SESSION], config.stash[VERDICTS])
    if idle and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
    expected = config.stash[SESSION].expected
    if expected is not None and expected.passed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    run = config.stash[SESSION].settings.run
    if run is not None:
        run.describe(finished=now(), pytest_exit_code=int(session.exitstatus))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if SESSION not in config.stash or config.option.collectonly:
        return
    for sentence in idle_candidates(config.stash[SESSION], config.stash[VERDICTS]):
        terminalreporter.write_line(f"error: {sentence}", red=True)
    expected = config.stash[SESSION].expected
    if expected is not None:
        for sentence in expected.passed:
            terminalreporter.write_line(printable(f"error: {sentence}"), red=True)
        for sentence in expected.complaints:
            terminalreporter.write_line(printable(f"warning: {sentence}"))
