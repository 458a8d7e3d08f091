"""`mxmoe bisect` on a real terminal: what runs now, and what is left at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

# "judging", the commit, how many are left; drawn, and wiped when it is over.
WORDS = ["good\n", "good # 1\n", "bad\n", "bad # 3\n"]
READS_IT = "/bin/sh", "-c", "sleep 0.1; case $(cat my_kernel.py) in bad*) exit 1;; esac"
_CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def screen(written: str) -> list[str]:
    """The lines that stay: returns, line feeds, cursor up and erased lines obeyed."""
    lines, row, column, at = [""], 0, 0, 0
    while at < len(written):
        code = _CODE.match(written, at)
        if code is not None:
            count, kind = code.groups()
            row -= int(count or 1) if kind == "A" else 0
            if kind == "K":
                lines[row] = "" if count == "2" else lines[row][:column]
            at = code.end()
            continue
        letter, at = written[at], at + 1
        if letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + letter + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def bisected(repo, on_terminal: Callable[..., str], folder: Path) -> str:
    """What is written about the history of WORDS."""
    words = ("bisect", "--repo", repo.folder, "--run-dir", folder / "run")
    ends = (repo.commits[0], repo.commits[-1])
    arguments = list(map(str, (*words, *ends, "--", *READS_IT)))
    return on_terminal(arguments, folder, columns=200)


def test_what_is_judged_now_is_shown_and_the_last_lines_stay(
    make_repo, on_terminal: Callable[..., str], tmp_path: Path
) -> None:
    repo = make_repo(WORDS)
    written = bisected(repo, on_terminal, tmp_path)
    short = [commit[:7] for commit in repo.commits]
    drawn = re.findall(r"judging (\w{7})\w* Change (\d)", written)
    assert [int(n) for _, n in dict.fromkeys(drawn)] == [3, 0, 2, 1]
    assert "the bad end" in written
    assert re.search(r"\d left, about \d step", written)
    left = screen(written)
    assert not any("judging" in line for line in left)
    judged = [line.split()[0] for line in left if re.search(r"Change \d( |$)", line)]
    assert judged[:4] == ["bad", "good", "bad", "good"]
    assert f"first bad commit {repo.commits[2]}" in left
    assert left[-1].startswith(f"verdict: FOUND {short[2]}")
    assert left[-2].startswith("run ")
