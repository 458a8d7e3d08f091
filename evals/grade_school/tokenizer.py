"""The task's tokenizer: byte-level BPE, each digit a token of its own.

Byte-level, so that any text has an encoding; trained on problems of the split `train`.
Token 0 is "!", as in GPT-2's order of bytes: logits that are all NaN decode to "!!!!".
`python -m mxmoe.evals.grade_school.tokenizer` writes the files anew.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from mxmoe.evals.grade_school.generate import problems
from mxmoe.reference.errors import BadInput

FOLDER = Path(__file__).parent / "tokenizer_files"
# Not a multiple of 128 either; most words of the templates are one token.
VOCABULARY = 992
END, PAD = "<|return|>", "<|endoftext|>"
_SPECIAL = (END, PAD)
_TRAINED_ON = 8000


def build() -> Tokenizer:
    """Train the tokenizer; the same every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made = itertools.islice(problems("train", "tokenizer"), _TRAINED_ON)
    tokenizer.train_from_iterator((p.prompt + p.completion for p in made), trainer)
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def write(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which transformers loads."""
    folder.mkdir(parents=True, exist_ok=True)
    build().save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise BadInput(f"tokenizer: expected a token {token}, found none")
    return int(found)


def load() -> Tokenizer:
    """The tokenizer of the committed file."""
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


if __name__ == "__main__":
    write(FOLDER)
