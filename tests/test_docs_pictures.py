"""The pictures of the documents are those that their script draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.catalogue import installed_faults
from mxmoe.reference.types import WHOLE

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = DOCS / "pictures"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", PICTURES / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DRAW = load_script()


def test_every_file_is_drawn_by_the_script_and_shown_by_a_page() -> None:
    assert {p.name for p in PICTURES.glob("*.svg")} == set(DRAW.PICTURES)
    pages = "".join(p.read_text("utf-8") for p in DOCS.glob("*.md"))
    for name in DRAW.PICTURES:
        assert f"(pictures/{name})" in pages, name


@pytest.mark.parametrize("name", DRAW.PICTURES)
def test_a_picture_is_what_the_script_draws(name: str) -> None:
    drawn = DRAW.PICTURES[name]()
    assert (PICTURES / name).read_text("utf-8") == drawn, (
        "run: python docs/pictures/draw.py"
    )
    root = ElementTree.fromstring(drawn)
    assert root.tag.endswith("svg")
    # Shown on GitHub, where a picture may neither run nor fetch anything.
    assert not {"script", "image", "foreignObject"} & {
        one.tag.partition("}")[2] for one in root.iter()
    }
    assert "href" not in drawn


def test_the_order_drawn_as_found_is_that_of_the_planted_fault() -> None:
    """Rank 0 of 8 has the first 384 lanes, as this layer has on one rank."""
    data = make_case_data(parse_case("e2k1h128i384/tp1r0/t1/s0"))
    faulty = installed_faults()["biases_not_shuffled"].plant()
    prepared = faulty.prepare(data.weights, data.config, WHOLE, torch.device("cpu"))
    expected, found = DRAW.orders_of_the_fault()
    bias = data.weights.gate_up_bias
    assert bias is not None
    assert torch.equal(prepared["fc1_bias"], bias[:, found].float())
    assert not torch.equal(prepared["fc1_bias"], bias[:, expected].float())
