"""lm-eval's own task `gsm8k`: its prompts, few-shots and filters, on our rows.

What lm-eval would do on its own is changed in two places. The rows are given, since
its download has no revision. And the few-shots are the first of the training set for
every question: its default sampler draws them in the order of asking, so that another
selection of questions gets other prompts.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from mxmoe.evals.gate.task import Conversation
from mxmoe.evals.gate.task import Turn
from mxmoe.evals.gsm8k.data import Gsm8k
from mxmoe.evals.gsm8k.data import Row

_YAML = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
# What TensorRT-LLM scores gpt-oss with, the last number of the text
# (tests/integration/defs/accuracy, TestGPTOSS).
FILTER = "flexible-extract"


class LmEvalGsm8k:
    """lm-eval's task object, and what the gate needs of it."""

    def __init__(self, data: Gsm8k) -> None:
        config = yaml.safe_load(_YAML.read_text(encoding="utf-8"))
        for name in ("dataset_path", "dataset_name", "tag"):
            config.pop(name, None)
        config["fewshot_config"] = {"sampler": "first_n"}
        config["custom_dataset"] = lambda **_: {
            "train": _dataset(data.train),
            "test": _dataset(data.test),
        }
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self._task = ConfigurableTask(config=config)
        [self._filter] = [f for f in self._task._filters if f.name == FILTER]
        self._docs = list(self._task.eval_docs)

    @property
    def version(self) -> str:
        """Of the task."""
        return str(self._task.VERSION)

    @property
    def few_shots(self) -> int:
        """How many before each question."""
        return int(self._task.config.num_fewshot)

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer."""
        return tuple(self._task.config.generation_kwargs["until"])

    @cached_property
    def conversations(self) -> tuple[Conversation, ...]:
        """Messages by question; the few-shots are turns of their own."""
        # They are the same for all: lm-eval renders each in 1 ms, once is enough.
        shots = self._messages(self._docs[0], self.few_shots)[:-1]
        return tuple(shots + self._messages(doc, 0) for doc in self._docs)

    def extract(self, text: str) -> str:
        """What the filter makes of an answer; lm-eval's "[invalid]" for no number."""
        return str(self._filtered(self._docs[0], text))

    def is_correct(self, question: int, text: str) -> bool:
        """As lm-eval scores it: compared as text, without commas and dollar signs."""
        doc = self._docs[question]
        found = self._task.process_results(doc, [self._filtered(doc, text)])
        return bool(found["exact_match"] == 1.0)

    def _filtered(self, doc: Any, text: str) -> Any:
        instance = Instance(
            request_type="generate_until", doc=doc, arguments=("", {}), idx=0
        )
        instance.resps = [text]
        self._filter.apply([instance])
        return instance.filtered_resps[FILTER]

    def _messages(self, doc: Any, few_shots: int) -> Conversation:
        written = self._task.fewshot_context(
            doc,
            few_shots,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=lambda messages, **_: json.dumps(messages),
        )
        return tuple(Turn(t["role"], t["content"]) for t in json.loads(written))


def harness() -> str:
    """The program that makes the prompts and scores, with its version."""
    return f"lm-eval {metadata.version('lm_eval')}"


def _dataset(rows: tuple[Row, ...]) -> Dataset:
    return Dataset.from_list(
        [{"question": row.question, "answer": row.answer} for row in rows]
    )
