"""Latencies of streamed answers, as serving benchmarks report them.

Per request, from the server's own token counts: TTFT is the time until the first text;
ITL, the inter-token latency, is the time from first to last text divided by the tokens
after the first; tokens/s/user is 1 / ITL. Percentiles are over requests. That is how
TensorRT-LLM's pull request 13867 comes from 8.53 ms to 117.4 tokens/s/user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mxmoe.evals.endpoint.streamed import Streamed

CSV_HEADER = (
    *("request", "prompt_tokens", "completion_tokens", "finish_reason"),
    *("pieces", "arrivals", "ttft_ms", "itl_ms", "tokens_per_s_user", "last_token_ms"),
)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over the requests: median, the 99th percentile of slowness, mean."""

    p50: float
    p99: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """ttft_ms, itl_ms : milliseconds. tokens_per_s : of all requests together."""

    ttft_ms: Spread
    itl_ms: Spread
    tokens_per_s_user: Spread
    tokens_per_s: float
    tokens_per_arrival: float


def latency_of(answers: Sequence[Streamed], *, seconds: float) -> Latency:
    """The figures of answers that took `seconds` from the first request to the end."""
    between = [1e3 * answer.between_tokens for answer in answers]
    tokens = sum(answer.completion_tokens for answer in answers)
    rates = [1e3 / itl for itl in between]
    return Latency(
        ttft_ms=_spread([1e3 * answer.first for answer in answers], slow=99),
        itl_ms=_spread(between, slow=99),
        tokens_per_s_user=_spread(rates, slow=1),
        tokens_per_s=tokens / seconds,
        tokens_per_arrival=tokens / sum(answer.arrivals for answer in answers),
    )


def csv_rows(answers: Sequence[Streamed]) -> list[tuple[object, ...]]:
    """One row a request, under `CSV_HEADER`."""
    return [
        (
            *(number, answer.prompt_tokens, answer.completion_tokens),
            *(answer.finish_reason, answer.pieces, answer.arrivals),
            round(1e3 * answer.first, 4),
            round(1e3 * answer.between_tokens, 5),
            round(1 / answer.between_tokens, 3),
            round(1e3 * answer.last, 4),
        )
        for number, answer in enumerate(answers)
    ]


def table_lines(found: Latency) -> list[str]:
    """For people: one line a figure."""
    lines = [f"{'':22}{'p50':>10}{'p99':>10}{'mean':>10}"]
    for name, spread, digits in (
        ("TTFT, ms", found.ttft_ms, 2),
        ("ITL, ms", found.itl_ms, 3),
        ("tokens/s/user", found.tokens_per_s_user, 1),
    ):
        values = (spread.p50, spread.p99, spread.mean)
        lines.append(f"{name:22}" + "".join(f"{v:10.{digits}f}" for v in values))
    lines.append(f"{'tokens/s, all users':22}{found.tokens_per_s:10.1f}")
    return lines


def _spread(values: Sequence[float], *, slow: int) -> Spread:
    return Spread(
        p50=float(np.percentile(values, 50)),
        p99=float(np.percentile(values, slow)),
        mean=float(np.mean(values)),
    )
