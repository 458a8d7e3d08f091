"""The lines of a failure text that a reader looks for; its form is in `Judge.fail`."""

from __future__ import annotations

_WHY, _AGAIN = "why", "again"
_STAGE = "first bad stage: "
_NO_REASON = ("none of the known hypotheses", "no mixture of the ranks")
_INDENT = "       "


def explanation(text: str) -> str:
    """What the suite thinks is wrong; the first fact where it has no idea.

    Text of several lines comes back as one, with semicolons.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.startswith(f"{_WHY} "):
            rest = [line.removeprefix(_WHY).strip()]
            for more in lines[number + 1 :]:
                if not more.startswith(_INDENT):
                    break
                rest.append(more.strip())
            return _located("; ".join(rest), lines)
    return lines[1].strip() if len(lines) > 1 else lines[0].strip()


def _located(why: str, lines: list[str]) -> str:
    """`why`; where the suite found no reason, with the stage that it begins at."""
    if not why.startswith(_NO_REASON):
        return why
    for line in lines:
        if line.startswith(_STAGE) and "not observable" not in line:
            stage = line.removeprefix(_STAGE).partition(",")[0]
            return f"{why}; first bad stage: {stage}"
    return why


def again(text: str) -> str:
    """The command that repeats the failure, or nothing."""
    for line in text.split("\n"):
        if line.startswith(f"{_AGAIN} "):
            return line.removeprefix(_AGAIN).strip()
    return ""


def attribution(text: str) -> str:
    """Whose side is wrong, or nothing."""
    for line in text.split("\n"):
        if line.startswith("attribution: "):
            return line.removeprefix("attribution: ").strip()
    return ""
