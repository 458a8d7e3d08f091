"""Which layers and experts of the trained model carry a planted fault."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.commands.main import main
from mxmoe.evals.bisect.carriers import Carriers
from mxmoe.evals.bisect.carriers import Options
from mxmoe.evals.bisect.carriers import find_carriers
from mxmoe.evals.bisect.carriers_shown import lines
from mxmoe.evals.bisect.guilty_places import half_way
from mxmoe.evals.bisect.teacher_forced import Distance

# The layer is known by the order in which layers are prepared.
PLANTED = '''"""A right candidate with wrong down biases in some experts."""
from mxmoe.kernels.torch_dense import candidate as right

WRONG = {wrong}


class candidate:
    name = "planted"
    capabilities = right.capabilities

    def __init__(self):
        self.layer = 0

    def prepare(self, weights, config, shard, device):
        prepared = dict(right.prepare(weights, config, shard, device))
        bias = prepared["down_bias"].clone()
        for layer, expert in WRONG:
            if layer == self.layer:
                bias[expert] = {edit}
        self.layer += 1
        return {{**prepared, "down_bias": bias}}

    def forward(self, prepared, x, routing, *, tactic=None):
        return right.forward(prepared, x, routing)
'''


def planted(folder: Path, *wrong: tuple[int, int], edit: str = "") -> str:
    path = folder / "planted.py"
    edit = edit or "bias[expert].roll(1)"
    path.write_text(PLANTED.format(wrong=list(wrong), edit=edit))
    return str(path)


def find(spec: str, **options: object) -> object:
    return find_carriers(Options(candidate=spec, questions=6, **options))


def test_one_expert_of_one_layer_is_named(tmp_path: Path) -> None:
    spec = planted(tmp_path, (2, 5))
    found = find(spec, single=True)
    assert found.places == ((2, 5),)
    verdict = lines(found, Options(candidate=spec, single=True))[-1]
    count = f"{found.evaluations} evaluations"
    assert verdict.endswith(f": layer 2 expert 5; none can be left out; {count}")
    assert found.layers == (2,)
    assert found.passes == 1
    # 4 for the ends, then two for each halving of 4 layers and of 8 experts, and
    # 3: what is left, the honest candidate there, and the set alone.
    assert found.evaluations <= 4 + 2 * 2 + 2 * 3 + 3
    assert found.restored.divergence < found.half_way < found.alone.divergence


@pytest.mark.nightly
def test_experts_of_several_layers_are_named_together(tmp_path: Path) -> None:
    wrong = ((0, 1), (1, 6), (3, 2))
    assert find(planted(tmp_path, *wrong), single=True).places == wrong
    layers = find(planted(tmp_path, *wrong))
    assert layers.layers == (0, 1, 3)


@pytest.mark.nightly
def test_nan_is_found_like_any_other_fault(tmp_path: Path) -> None:
    found = find(planted(tmp_path, (1, 3), edit="float('nan')"), single=True)
    assert found.places == ((1, 3),)
    assert found.bad.divergence == math.inf


@pytest.mark.nightly
def test_of_a_right_candidate_nothing_is_named(capsys, tmp_path: Path) -> None:
    asked = ["--layers", "-c", "trtllm_gen", "--questions", "6", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["bisect", *asked, "--run-dir", str(tmp_path / "run")])
    assert ended.value.code == 4
    document = json.loads(capsys.readouterr().out)
    assert document["layers"] == []


def test_what_is_too_small_is_said_with_the_ratio_the_count_and_the_way_on() -> None:
    good, bad = (Distance(divergence=x, loss=0.0) for x in (2e-8, 5e-8))
    found = Carriers(
        layers=(),
        places=(),
        good=good,
        bad=bad,
        half_way=half_way(2e-8, 5e-8, most=math.log(512)),
        restored=None,
        alone=None,
        unvisited=0,
        tokens=100,
        passes=0,
        evaluations=4,
    )
    *_, way_on, verdict = lines(found, Options(candidate="my kernel.py"))
    assert verdict == (
        "verdict: INCONCLUSIVE my kernel.py: 2.5 times honest rounding, less than 4: "
        "nothing to find this way; 4 evaluations"
    )
    assert "mxmoe locate -c 'my kernel.py' judges each layer" in way_on


@pytest.mark.nightly
def test_a_fault_of_the_catalogue_is_in_every_layer(tmp_path: Path) -> None:
    found = find("trtllm_gen", fault="biases_not_shuffled")
    assert found.layers == (0, 1, 2, 3)
