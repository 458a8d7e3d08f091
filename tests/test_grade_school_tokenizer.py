"""The tokenizer of grade_school: exact round trips, digits apart, reproducible."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra 'hf'")

from mxmoe.evals.grade_school import frozen
from mxmoe.evals.grade_school import tokenizer as task_tokenizer
from mxmoe.evals.grade_school.answers import LONGEST_ANSWER
from mxmoe.evals.training.batches import ROW

LOADED = task_tokenizer.load()
TEST = frozen.load_test_problems()


@given(st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    assert LOADED.decode(LOADED.encode(text).ids, skip_special_tokens=False) == text


def test_problems_come_back_and_fit() -> None:
    for problem in TEST:
        prompt = LOADED.encode(problem.prompt).ids
        completion = LOADED.encode(problem.completion).ids
        # The prompt ends where a token ends: what is trained is what is asked.
        whole = LOADED.encode(problem.prompt + problem.completion).ids
        assert whole == prompt + completion
        assert LOADED.decode(whole) == problem.prompt + problem.completion
        assert len(whole) < ROW
        assert len(completion) < LONGEST_ANSWER


def test_each_digit_is_one_token() -> None:
    tokens = LOADED.encode("<<450+1=451>>451").tokens
    assert [t for t in tokens if t[-1].isdigit()] == list("4501451451")


def test_the_committed_file_follows_from_the_templates(tmp_path: Path) -> None:
    task_tokenizer.write(tmp_path)
    for path in task_tokenizer.FOLDER.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_vocabulary_is_small_and_starts_with_an_exclamation_mark() -> None:
    """Greedy decoding of NaN gives token 0: "!!!!" is seen, an empty text is not."""
    assert LOADED.get_vocab_size() == task_tokenizer.VOCABULARY < 1000
    assert LOADED.decode([0]) == "!"


def test_transformers_loads_it_as_we_do() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    theirs = transformers.AutoTokenizer.from_pretrained(task_tokenizer.FOLDER)
    text = TEST[0].prompt + TEST[0].completion
    assert theirs(text)["input_ids"] == LOADED.encode(text).ids
    assert theirs.eos_token_id == LOADED.token_to_id(task_tokenizer.END)
    assert theirs.pad_token_id == LOADED.token_to_id(task_tokenizer.PAD)
    assert theirs.padding_side == "left"
