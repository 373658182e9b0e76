"""The decision: is one revision slower than the other, as far as some pairs of processes can tell?

A pair of processes gives one number for a sample: d = median over rounds of log(seconds of HEAD / seconds of BASE),
the two taken right after one another. What changes over seconds (clock, neighbours) cancels within a round; what a
process keeps for its life (addresses, pages) differs from pair to pair. So pairs, not rounds, are what is counted.

The estimate is the median of the d of all pairs, and its bounds are order statistics: with n pairs, the k-th smallest
is above the true median with probability P(Binomial(n, 1/2) < k), whatever the distribution (the sign test's interval;
Conover, Practical Nonparametric Statistics, 3rd ed., 1999, section 3.2). k is the largest for which that is at most 1%.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.99
"""Of each bound by itself."""

SLOWER, UNCHANGED, UNCLEAR = "slower", "unchanged", "unclear"


def rank(pairs: int) -> int:
    """Return k: the k-th smallest (and k-th largest) of that many values bounds the median; 0 where none does."""
    tail, k = 0.0, 0
    while k < pairs:
        tail += math.comb(pairs, k) / 2.0**pairs
        if tail > 1.0 - CONFIDENCE:
            break
        k += 1
    return k


@dataclass(frozen=True)
class Verdict:
    """How many times as long HEAD takes, less 1, with its bounds, and what that means."""

    slowdown: float
    low: float
    high: float
    pairs: int
    state: str

    def __str__(self) -> str:
        """Return the slow-down and its bounds in percent."""
        return f"{self.slowdown:+.1%} ({self.low:+.1%} to {self.high:+.1%}, {self.pairs} pairs)"


def judge(differences: Sequence[float], threshold: float) -> Verdict:
    """Return the verdict on the d of some pairs.

    Slower: the estimate is at least `threshold`, and even the lower bound is above 0. Unclear: the estimate is, the
    bound is not; or the estimate is not, but a slow-down of twice the threshold cannot be excluded. Else unchanged, or
    faster.
    """
    ordered = sorted(differences)
    k = rank(len(ordered))
    middle = statistics.median(ordered)
    low, high = (ordered[k - 1], ordered[-k]) if k else (-math.inf, math.inf)
    limit = math.log1p(threshold)
    state = UNCHANGED
    if middle >= limit and low > 0.0:
        state = SLOWER
    elif middle >= limit or high >= 2.0 * limit:
        state = UNCLEAR
    return Verdict(math.expm1(middle), math.expm1(low), math.expm1(high), len(ordered), state)


def suspicious(differences: Sequence[float], threshold: float) -> bool:
    """Return whether a few pairs leave the possibility of a slow-down: half the threshold, or they differ too much."""
    limit = math.log1p(threshold)
    return statistics.median(differences) > 0.5 * limit or max(differences) - min(differences) > 2.0 * limit
