"""GSM8K as TensorRT-LLM asks it of gpt-oss.

5 few-shots as turns of a conversation, the model's chat template, greedy, 8192 output
tokens, the last number of the text counts (NVIDIA/TensorRT-LLM,
tests/integration/defs/accuracy, TestGPTOSS, which scored 90.3).
"""

from __future__ import annotations

from pathlib import Path

from mxmoe.evals.gate.task import Task
from mxmoe.evals.gsm8k.data import read_gsm8k
from mxmoe.reference.errors import BadInput

NAME = "gsm8k"
# The limit that TestGPTOSS sets in the place of 256: the model reasons first.
OUTPUT_TOKENS = 8192


def load_task(data: Path | None = None) -> Task:
    """Read the questions and let lm-eval make the prompts.

    Raises `BadInput` where lm-eval is not installed, and as `read_gsm8k` does.
    """
    try:
        from mxmoe.evals.gsm8k.with_lm_eval import FILTER
        from mxmoe.evals.gsm8k.with_lm_eval import LmEvalGsm8k
        from mxmoe.evals.gsm8k.with_lm_eval import harness
    except ModuleNotFoundError as error:
        raise BadInput(
            "gsm8k: expected the extra 'eval' (pip install "
            f"'mxmoe-conformance[hf,eval]'), found no {error.name}"
        ) from error
    rows = read_gsm8k(data)
    found = LmEvalGsm8k(rows)
    return Task(
        name=NAME,
        version=found.version,
        conversations=found.conversations,
        golds=tuple(row.answer for row in rows.test),
        questions_sha256=rows.sha256,
        few_shots=found.few_shots,
        chat_template=True,
        output_tokens=OUTPUT_TOKENS,
        stops=found.stops,
        extraction=FILTER,
        harness=harness(),
        extract=found.extract,
        is_correct=found.is_correct,
    )
