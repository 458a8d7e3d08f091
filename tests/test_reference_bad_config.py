"""A checkpoint folder whose config.json cannot be used: always one sentence.

It names the file, the key, what was expected and what was found.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput

CONFIG = {
    "model_type": "gpt_oss",
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 2,
}
SIZES = list(CONFIG)[1:]


def refusal(folder: Path | str) -> str:
    """The sentence that refuses the folder, less the folder."""
    with pytest.raises(BadInput) as caught:
        open_checkpoint(folder)
    text = str(caught.value)
    assert text.isprintable()
    assert "expected" in text
    assert "found" in text
    return text.removeprefix(f"{folder}")


def refused(folder: Path, config: object) -> str:
    """The refusal of a configuration: a JSON value, or the bytes of the file."""
    content = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "config.json").write_bytes(content)
    text = refusal(folder)
    assert text.startswith("/config.json: ")
    return text.removeprefix("/config.json: ")


def with_value(key: str, value: str) -> bytes:
    """The good configuration with `value` as it stands after `key`."""
    return f'{json.dumps(CONFIG)[:-1]}, "{key}": {value}}}'.encode()


def test_the_good_configuration_is_not_what_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert ": expected *.safetensors, found none" == refusal(tmp_path)


def test_a_missing_folder_is_refused(tmp_path) -> None:
    folder = tmp_path / "absent"
    assert ": expected a checkpoint folder, found none" == refusal(folder)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert ": expected a checkpoint folder, found none" == refusal(tmp_path / "file")


@pytest.mark.parametrize("name", ["a\nb", "x" * 300, "a\0b", "\ud800", "\x1b[31m"])
def test_a_folder_name_that_no_file_system_or_terminal_takes_is_refused(
    tmp_path, name
) -> None:
    assert refusal(tmp_path / name).endswith("expected a checkpoint folder, found none")


def test_a_missing_file_is_refused(tmp_path) -> None:
    expected = "/config.json: expected a readable file, found No such file or directory"
    assert expected == refusal(tmp_path)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").mkdir()
    expected = "/config.json: expected a readable file, found Is a directory"
    assert expected == refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected JSON, found Expecting value"),
        (b"{", "expected JSON, found Expecting property name"),
        (b"[]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"a": "\xff"}', "expected JSON, found 'utf-8' codec can't decode"),
        (b"\xff\xfe{\0}\0", "expected JSON, found 'utf-8' codec can't decode"),
        (b"\xef\xbb\xbf{}", "expected JSON, found Unexpected UTF-8 BOM"),
        (b'{"a": ' + b"9" * 5000 + b"}", "expected JSON, found Exceeds the limit"),
        (b"[" * 100_000, "expected JSON, found maximum recursion depth"),
        (b'{"a":' * 100_000, "expected JSON, found maximum recursion depth"),
    ],
    ids=range(10),
)
def test_a_file_that_is_not_a_json_object_is_refused(
    tmp_path, content, expected
) -> None:
    assert refused(tmp_path, content).startswith(expected)


def test_a_file_too_large_to_be_one_is_not_read(tmp_path) -> None:
    """Sparse: 1 TiB that takes no room on disk."""
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**40)
    expected = f"/config.json: expected at most {2**26} bytes, found {2**40}"
    assert expected == refusal(tmp_path)


@pytest.mark.parametrize("found", ["llama", "gpt_oss\n", None, ["gpt_oss"], "x" * 999])
def test_another_model_type_is_refused(tmp_path, found) -> None:
    expected = f"model_type: expected 'gpt_oss', found {found!r:.40}"
    assert expected == refused(tmp_path, CONFIG | {"model_type": found})


@pytest.mark.parametrize("key", SIZES)
def test_a_missing_key_is_refused(tmp_path, key) -> None:
    config = {name: value for name, value in CONFIG.items() if name != key}
    assert key in refused(tmp_path, config)


def test_an_empty_object_is_refused(tmp_path) -> None:
    assert refused(tmp_path, {}).startswith("expected a gpt-oss configuration, found")


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", [0, -1, 10**30, 1.5, True, "64", None, [], {"a": 1}])
def test_an_absurd_size_is_refused(tmp_path, key, value) -> None:
    expected = f"{key}: expected an integer from 1 to 1048576, found {value!r}"
    assert expected == refused(tmp_path, CONFIG | {key: value})


@pytest.mark.parametrize("key", ["num_experts", "experts_per_token"])
def test_an_absurd_size_in_the_spelling_of_openai_is_refused(tmp_path, key) -> None:
    theirs = {"num_experts": 2, "experts_per_token": 1, key: 0}
    config = {k: v for k, v in CONFIG.items() if not k.startswith(("num_l", "num_e"))}
    expected = f"{key}: expected an integer from 1 to 1048576, found 0"
    assert expected == refused(tmp_path, config | theirs)


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size"])
@pytest.mark.parametrize("value", [1, 33, 2879])
def test_a_size_that_is_not_whole_blocks_is_refused(tmp_path, key, value) -> None:
    name = key.removesuffix("_size")
    expected = f"{name}: expected a multiple of 32 (one MXFP4 block), found {value}"
    assert expected == refused(tmp_path, CONFIG | {key: value})


def test_more_slots_than_experts_are_refused(tmp_path) -> None:
    expected = "top_k: expected at most experts = 2, found 3"
    assert expected == refused(tmp_path, CONFIG | {"num_experts_per_tok": 3})


@pytest.mark.parametrize("depth", [100, 400, 700, 900])
@pytest.mark.parametrize("key", ["model_type", "hidden_size", "swiglu_limit"])
def test_a_deep_value_is_quoted_in_short(tmp_path, key, depth) -> None:
    """Deep enough for Python's limits, whether JSON still reads it or not."""
    assert len(refused(tmp_path, with_value(key, "[" * depth + "]" * depth))) < 120


@pytest.mark.parametrize("key", ["swiglu_limit", "swiglu_alpha"])
@pytest.mark.parametrize("value", [0, -7.0, 10**400, True, "7", None, [7.0]])
def test_an_absurd_number_is_refused(tmp_path, key, value) -> None:
    expected = f"{key}: expected a positive number, found {value!r:.40}"
    assert expected == refused(tmp_path, CONFIG | {key: value})


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(tmp_path, value) -> None:
    expected = f"swiglu_limit: expected a positive number, found {float(value)}"
    assert expected == refused(tmp_path, with_value("swiglu_limit", value))
