"""What `mxmoe verify` holds in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verify.layer_lines import read_layers
from mxmoe.reference.types import MoEConfig

# Runs the command with a thread that watches the memory of this process that is not
# backed by a file, and prints the most that was added after the first preparation.
WATCH = """
import os, sys, threading, time
from mxmoe.conformance.commands.main import main
from mxmoe.conformance.subject import Subject

def anonymous():
    with open("/proc/self/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")

seen, prepare = [], Subject.prepare

def watch():
    while True:
        seen.append(anonymous())
        time.sleep(0.001)

def first(self, *arguments):
    if not seen:
        seen.append(anonymous())
        threading.Thread(target=watch, daemon=True).start()
    return prepare(self, *arguments)

Subject.prepare = first
try:
    main(sys.argv[1:])
finally:
    print("grew", max(seen) - seen[0])
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs Linux's /proc/self/statm"
)
def test_memory_holds_one_prepared_rank_and_few_experts(
    child: Any, tmp_path: Path
) -> None:
    """The layer itself is mapped from its file."""
    config = MoEConfig(hidden=1024, intermediate=768, experts=16, top_k=1)
    folder = tmp_path / "large"
    write_checkpoint(folder, config=config, layers=3)
    (tmp_path / "watch.py").write_text(WATCH)
    (tmp_path / "mine.py").write_text(
        "from mxmoe.reference.layouts import LAYOUTS\n"
        "class candidate:\n"
        "    name = 'mine'\n"
        "    capabilities = {'layout': 'trtllm_gen.v1'}\n"
        "    def prepare(self, weights, config, shard, device):\n"
        "        return LAYOUTS['trtllm_gen.v1'].expected(weights, config, shard)\n"
    )
    words = ("--layout", "trtllm_gen", "--candidate", tmp_path / "mine.py")
    done = child(
        *(tmp_path / "watch.py", "verify", folder, *words),
        *("--run-dir", tmp_path / "run", "--write-hashes", tmp_path / "digests"),
        # The allocator gives back what is freed at once.
        MALLOC_MMAP_THRESHOLD_="65536",
    )
    assert done.returncode == ExitCode.PASS, done.stdout + done.stderr
    grew = int(done.stdout.rpartition("grew ")[2])
    lines = read_layers(tmp_path / "run")
    rank = lines[0].ranks[0].bytes
    expert = rank // config.experts
    assert sum(line.ranks[0].bytes for line in lines.values()) == 3 * rank
    # The index maps have 2 x 8 bytes for each block and each scale: two experts. One
    # is gathered and compared, with what that needs for a moment.
    assert grew < rank + (2 + 4) * expert, f"{grew / rank:.2f} prepared ranks"
