"""The user's build command, before a commit is judged."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path


def build(command: str, folder: Path, log: Path, *, seconds: float) -> str | None:
    """Run the shell command in `folder`; why it failed, or None.

    Its output goes to `log`. All that it started ends with it.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"does not build: no end within {seconds:g} s"
        finally:
            end_session(process)
    if code == 0:
        return None
    words = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(words) if line.strip()), "")
    return f"does not build (exit code {code}): {last[:200]}"


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its descendants, which lead a session of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
