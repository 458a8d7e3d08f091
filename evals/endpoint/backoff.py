"""How long to wait before a request is sent again."""

from __future__ import annotations

import math
from datetime import UTC
from datetime import datetime
from email.utils import parsedate_to_datetime
from random import Random

from mxmoe.evals.endpoint.limits import Limits


def wait_before(
    attempt: int, retry_after: float | None, limits: Limits, random: Random
) -> float | None:
    """Seconds before attempt 2, 3, ...; None if the server asks for too long.

    Between half and all of first_wait * 2^(attempt - 2), so that many clients that
    were refused together do not come back together; never less than the server asked
    for in Retry-After.
    """
    longest = min(limits.first_wait * 2 ** (attempt - 2), limits.longest_wait)
    wait = longest * random.uniform(0.5, 1.0)
    if retry_after is None:
        return wait
    return max(wait, retry_after) if retry_after <= limits.longest_wait else None


def read_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds in a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        zone = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (zone - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
