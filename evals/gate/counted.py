"""Which answers of a run count: in the registered order, up to the one that decided.

Others came before one that is missing, or were in flight when the verdict was certain.
Counted with the rest they would flatter: short answers come first and are right more
often.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.evidence import first_stop
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.rule import Rule
from mxmoe.reference.errors import BadInput


def counted_answers(
    answers: Mapping[int, AnswerLine], facts: Mapping[str, Any], where: str
) -> tuple[AnswerLine, ...]:
    """Those of `answers`, by question, that count, in the registered order.

    facts : of run.json: its rule, its protocol's order and whether all were asked for.
    Raises `BadInput`, which names `where`, for facts that are not a gate's.
    """
    rule, order = _rule_and_order(facts, where)
    prefix = takewhile(answers.__contains__, order)
    found = tuple(answers[question] for question in prefix)
    if facts["options"].get("full") is True:
        return found
    return found[: first_stop(rule, (line.correct for line in found)).answered]


def _rule_and_order(
    facts: Mapping[str, Any], where: str
) -> tuple[Rule, tuple[int, ...]]:
    try:
        rule = Rule(**facts["rule"])
        seed = facts["protocol"]["order_seed"]
        facts["options"].get("full")
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(
            f"{where}: expected the rule, protocol and options of a gate, found {error}"
        ) from error
    return rule, registered_order(rule.asked, seed=seed)
