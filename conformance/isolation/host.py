"""The host's side: start the child, ask it, end it, say how it died."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from multiprocessing import connection as pipes
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from mxmoe.conformance.isolation import child
from mxmoe.conformance.isolation.beacon import Beacon
from mxmoe.conformance.isolation.messages import Answer
from mxmoe.conformance.isolation.messages import Question
from mxmoe.conformance.isolation.messages import receive_json
from mxmoe.conformance.isolation.messages import send_json
from mxmoe.conformance.isolation.post_mortem import post_mortem
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput

# What the child may need beyond a call's own limit: to raise, or to write where it is.
GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.5
_END_SECONDS = 5.0
# A lost child costs a start (importing the candidate, a CUDA context): seconds. In
# one run the checks of a candidate that always dies stop after some minutes.
LOST_PER_RUN = 60


@dataclass
class Losses:
    """How many children a run has lost; shared by all its hosts."""

    count: int = 0

    def spent(self) -> str | None:
        """Why no further check is begun, or None."""
        if self.count < LOST_PER_RUN:
            return None
        return (
            f"processes of candidates were lost {self.count} times in this run "
            "(crashes and hangs): no further check is begun"
        )


class Host:
    """Keeps one child for one candidate, restarted only when it was lost.

    plan : what the child is told at its start, see `child.main`; JSON.
    """

    def __init__(self, plan: Mapping[str, Any], losses: Losses) -> None:
        self.losses = losses
        self._plan = dict(plan)
        self._process: ForkServerProcess | None = None
        self._connection: Connection | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="mxmoe-child-")
        folder = Path(self._folder.name)
        self._log = folder / "log"
        self._beacon = Beacon.create(folder / "beacon")
        self._plan |= {"log": str(self._log), "beacon": str(folder / "beacon")}
        self._read_to = 0
        # Before multiprocessing's own handler, which would wait for the child.
        atexit.register(self.close)

    def start(self) -> dict[str, Any]:
        """Start the child and return its hello.

        Raises `BadInput` where the candidate does not load, `Failure` if it dies.
        """
        if "forkserver" not in multiprocessing.get_all_start_methods():
            raise BadInput("--isolate: expected a POSIX system, found none")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([child.__name__])
        ours, theirs = context.Pipe()
        self._connection = ours
        process = context.Process(target=child.main, args=(theirs,))
        try:
            process.start()
        finally:
            theirs.close()
        self._process = process
        self._read_to = self._log.stat().st_size if self._log.exists() else 0
        self._beacon.show("load", calling=True, seconds=child.LOAD_SECONDS)
        try:
            # The server was started with the environment of its time.
            send_json(ours, self._plan | {"environment": dict(os.environ)})
            self._wait()
            hello = receive_json(ours)
        except (EOFError, OSError):
            raise self._lost() from None
        if "bad_input" in hello:
            self.end()
            raise BadInput(hello["bad_input"])
        return hello

    def ask(self, question: Question) -> Answer:
        """The child's answer; `Failure` if it died or hung, and was ended.

        If it was lost over a call that only explains, it is asked once more, for the
        failure without that explanation.
        """
        if self._process is None:
            self._restart()
        assert self._connection is not None
        self._read_to = self._log.stat().st_size
        try:
            question.send(self._connection)
            self._wait()
            answer = Answer.receive(self._connection)
        except (EOFError, OSError):
            aside = self._beacon.read().aside
            lost = self._lost()
            if not (aside and question.telling):
                raise lost from None
            return self.ask(replace(question, telling=False))
        if answer.leaving:
            self.losses.count += 1
            self.end()
        return answer

    def _restart(self) -> None:
        """What was greeted before is not greeted again."""
        self._plan["greet"] = False
        try:
            self.start()
        except BadInput as error:
            raise Failure(Verdict.CRASH, f"restarted after a crash: {error}") from error

    def _wait(self) -> None:
        """Until there is something to read; `EOFError` for a child that hangs."""
        assert self._process is not None
        assert self._connection is not None
        awaited: list[Connection | int] = [self._connection, self._process.sentinel]
        while not pipes.wait(awaited, timeout=_POLL_SECONDS):
            if self._beacon.read().overdue(GRACE_SECONDS):
                raise EOFError
        if not self._connection.poll():
            raise EOFError

    def _lost(self) -> Failure:
        """End what is left of the child; the failure that says how it was lost."""
        assert self._process is not None
        self.losses.count += 1
        doing = self._beacon.read()
        hung = doing.overdue(GRACE_SECONDS)
        if hung:
            self._process.kill()
        self._process.join(_END_SECONDS)
        code = self._process.exitcode
        self.end()
        with self._log.open("rb") as log:
            log.seek(self._read_to)
            said = log.read().decode(errors="replace")
        return post_mortem(doing, None if hung else code, said)

    def end(self) -> None:
        """End the child; the next question starts another."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is None:
            return
        process.join(0.2)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if process.exitcode is None and process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, sign)
                process.join(_END_SECONDS)
        process.close()

    def close(self) -> None:
        """End the child for good and remove what was written for it."""
        atexit.unregister(self.close)
        self.end()
        self._beacon.close()
        self._folder.cleanup()
