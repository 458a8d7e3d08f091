"""Jobs on several cores of the CPU, the tensor operations of each on one core.

Where there are many operations, the threads of torch's own wait for each other after
every one of them: on a machine that is busy otherwise, longer than the work takes.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


def run_side_by_side(jobs: Sequence[Callable[[], None]], workers: int) -> None:
    """Run all jobs, up to `workers` at a time; one worker is the caller's thread.

    The jobs see the caller's inference mode, as tensors made in it demand, but none of
    its dispatch modes.
    """
    if workers == 1:
        for job in jobs:
            job()
        return
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def run(job: Callable[[], None]) -> None:
        with torch.inference_mode(inference):
            job()

    try:
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            list(pool.map(run, jobs))
    finally:
        # A thread that is started later would have the number that was set last.
        torch.set_num_threads(threads)
