"""How many times a rank may add the down bias, by its numbers of ranks.

The down bias is added once in a tensor-parallel group: each of tp ranks adds 1 / tp of
it, and expert-parallel ranks share no expert, so they do not divide it. Several
mistakes may give one factor; then all of them are said.
"""

from __future__ import annotations

from fractions import Fraction

from mxmoe.reference.types import Shard


def bias_shares(shard: Shard) -> dict[str, Fraction]:
    """Sentences -> what the right share of the rank is multiplied by."""
    tp, ep = shard.tp_size, shard.ep_size
    readings: list[tuple[Fraction, str]] = []
    if tp > 1:
        readings.append((Fraction(tp), f"not divided by tp = {tp}"))
        readings.append((Fraction(1, tp), f"divided by tp = {tp} twice"))
        only = "on one rank of tp only"
        if shard.tp_rank == 0:
            readings.append((Fraction(tp), f"added {only}, this one"))
    if ep > 1:
        both = f"tp * ep = {tp * ep}, not by {tp}" if tp > 1 else f"ep = {ep}"
        readings.append((Fraction(1, ep), f"divided by {both}"))
    if ep > 1 and tp > 1:
        readings.append((Fraction(tp, ep), f"divided by ep = {ep}, not by tp = {tp}"))
        readings.append((Fraction(1, tp * ep), f"divided by tp = {tp} twice and by ep"))
    found = dict[Fraction, list[str]]()
    for factor, words in readings:
        if factor != 1:
            found.setdefault(factor, []).append(words)
    return {
        f"down bias times {factor}: {', or '.join(words)}": factor
        for factor, words in found.items()
    }
