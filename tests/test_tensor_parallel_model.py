"""A whole model on several ranks gives one rank's logits, with two reductions a layer.

transformers' own tensor parallelism, gloo, a recording process group: see
`mxmoe.evals.tensor_parallel`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.cases.embedded import EMBEDDED_LAYERS
from mxmoe.conformance.cases.embedded import EMBEDDED_SHAPE
from mxmoe.conformance.cases.embedded import write_checkpoint

pytest.importorskip("transformers", reason="needs the extra 'hf'")
pytestmark = pytest.mark.nightly

MAIN = """
import sys
from pathlib import Path
from mxmoe.evals import tensor_parallel as tp
{plant}
tp.main(Path(sys.argv[1]), Path(sys.argv[2]))
"""
FAULTS = {
    "experts_not_reduced": "tp.RankExperts.reduce = lambda self, partial: partial",
    "down_bias_not_divided": (
        "right = tp.moe_of_rank\n"
        "tp.moe_of_rank = lambda *a, shard, **k: right(*a, shard=tp.Shard(), **k)"
    ),
    "every_rank_is_rank_0": (
        "right = tp.shard_weights\n"
        "tp.shard_weights = lambda w, c, s: right(w, c, tp.Shard(tp_size=s.tp_size))"
    ),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "made"
    write_checkpoint(folder)
    return folder


def on_ranks(
    world: int, checkpoint: Path, folder: Path, plant: str = ""
) -> list[dict[str, Any]]:
    """What each rank found."""
    script = folder / "rank.py"
    script.write_text(MAIN.format(plant=plant), encoding="utf-8")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--local-addr", "127.0.0.1", "--nproc-per-node", str(world)),
            *(script, checkpoint, folder / "found"),
        ],
        env=os.environ | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        process.terminate()  # torchrun ends its ranks with itself
    assert process.returncode == 0, said
    return [
        json.loads((folder / f"found.{rank}.json").read_text()) for rank in range(world)
    ]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_give_one_ranks_logits_with_two_reductions_a_layer(
    world: int, checkpoint: Path, tmp_path: Path
) -> None:
    hidden = EMBEDDED_SHAPE.hidden
    for facts in on_ranks(world, checkpoint, tmp_path):
        print(json.dumps(facts))  # noqa: T201 (shown by -s)
        assert facts["layers"] == EMBEDDED_LAYERS
        assert len(facts["all_reduced"]) == 2 * EMBEDDED_LAYERS
        assert all(shape[-1] == hidden for shape in facts["all_reduced"])
        assert facts["parts"]["q_proj"] == [128 // world, hidden]
        assert facts["parts"]["o_proj"] == [hidden, 128 // world]
        assert facts["difference"] <= facts["allowed"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_experts_is_far_out_of_bound(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    found = on_ranks(2, checkpoint, tmp_path, FAULTS[name])
    reductions = EMBEDDED_LAYERS * (1 if name == "experts_not_reduced" else 2)
    for facts in found:
        assert len(facts["all_reduced"]) == reductions
        assert facts["difference"] > 10 * facts["allowed"]
