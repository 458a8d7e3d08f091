"""Whatever the bytes of a checkpoint folder are: it is read, or it is `BadInput`.

Bytes are changed anywhere outside the tensors' data, and JSON is changed where
it stays JSON, which random bytes seldom do.
"""

from __future__ import annotations

import copy
import json
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import save

from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.checkpoint.names import HUGGING_FACE
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import expected_tensors

CONFIG = {
    "model_type": "gpt_oss",
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 1,
    "swiglu_limit": 7.0,
}
SHAPES = expected_tensors(MoEConfig(hidden=64, intermediate=32, experts=2, top_k=1))
TENSORS = {
    HUGGING_FACE[field].format(layer=0): torch.zeros(shape, dtype=dtype)
    for field, (shape, dtype) in SHAPES.items()
}
MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_MAP = dict.fromkeys(TENSORS, MODEL)
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    INDEX: json.dumps({"weight_map": WEIGHT_MAP}).encode(),
    MODEL: save(TENSORS),
}
HEADER_END = 8 + struct.unpack("<Q", FILES[MODEL][:8])[0]
HEADER = json.loads(FILES[MODEL][8:HEADER_END])
DATA = FILES[MODEL][HEADER_END:]

repeatable = settings(max_examples=250, deadline=None, derandomize=True, database=None)
files = pytest.mark.parametrize("name", FILES)

numbers = st.one_of(
    st.integers(-2, 130),
    st.sampled_from([2**31, 2**63, 2**64, 10**30, 10**400]),
    st.floats(),
)
texts = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["U8", "F8_E8M0", "F4", "..", MODEL, "n" * 300, "\n", "\ud800"]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=8,
)


def read_or_refuse(changed: dict[str, bytes | None]) -> None:
    """Ask everything of a good folder but for the files that are `changed`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file_name, content in (FILES | changed).items():
            if content is not None:
                (folder / file_name).write_bytes(content)
        refusal = f"{folder} is read"
        try:
            checkpoint = open_checkpoint(folder)
            checkpoint.layer_bytes()
            for layer in range(min(checkpoint.layers, 3)):
                checkpoint.layer(layer).check(checkpoint.config)
        except BadInput as error:
            refusal = str(error)
    assert refusal.isprintable()
    assert refusal.startswith(name)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every entry of a JSON value."""
    inner = {dict: lambda v: v.items(), list: enumerate}.get(type(value), lambda _: ())
    found = [path] if path else []
    for key, entry in inner(value):
        found += places(entry, (*path, key))
    return found


def change(data: st.DataObject, document: dict) -> bytes:
    """The document as JSON with up to three entries replaced, renamed or removed."""
    document = copy.deepcopy(document)
    times = data.draw(st.integers(1, 3))
    while times and (choices := places(document)):
        times -= 1
        *outer, key = data.draw(st.sampled_from(choices))
        holder = document
        for step in outer:
            holder = holder[step]
        action = data.draw(st.sampled_from(["replace", "rename", "remove"]))
        if action == "replace":
            holder[key] = data.draw(values)
            continue
        entry = holder.pop(key)
        if action == "rename" and isinstance(holder, dict):
            holder[data.draw(texts)] = entry
    return json.dumps(document).encode()


@files
@repeatable
@given(data=st.data(), with_index=st.booleans())
def test_changed_and_missing_bytes_are_read_or_refused(name, data, with_index) -> None:
    content = bytearray(FILES[name])
    last = (HEADER_END if name == MODEL else len(content)) - 1
    edits = st.lists(st.tuples(st.integers(0, last), st.integers(0, 255)), max_size=4)
    for place, byte in data.draw(edits):
        content[place] = byte
    kept = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    index = {} if with_index or name == INDEX else {INDEX: None}
    read_or_refuse({**index, name: bytes(content[:kept])})


@repeatable
@given(data=st.data())
def test_a_changed_configuration_is_read_or_refused(data) -> None:
    read_or_refuse({"config.json": change(data, CONFIG)})


@repeatable
@given(data=st.data())
def test_a_changed_index_is_read_or_refused(data) -> None:
    read_or_refuse({INDEX: change(data, {"weight_map": WEIGHT_MAP})})


@repeatable
@given(data=st.data(), with_index=st.booleans())
def test_a_changed_header_is_read_or_refused(data, with_index) -> None:
    header = change(data, HEADER)
    content = struct.pack("<Q", len(header)) + header + DATA
    read_or_refuse({MODEL: content, **({} if with_index else {INDEX: None})})
