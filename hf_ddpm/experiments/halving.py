"""Successive halving of candidates that were measured with the same seeds: `plan_rounds`, `survivors`, `best_of`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hf_ddpm.experiments.verdict import Verdict
from hf_ddpm.results import MetricValue
from hf_ddpm.tuning_results import Candidate

FINALISTS = 3
"""At most so many candidates are compared in the last round."""
FEWEST_IMAGES = 100
"""At least so many images of each seed, or as many as in the last round: distances of few favour samples that vary less."""


def plan_rounds(num_candidates: int, num_images: int) -> list[tuple[int, int]]:
    """The number of candidates and of images of each seed in each round: half as many of twice as many images each time."""
    counts = [num_candidates]
    while counts[-1] > FINALISTS:
        counts.append(math.ceil(counts[-1] / 2))
    halvings = range(len(counts) - 1, -1, -1)
    least = min(FEWEST_IMAGES, num_images)
    return [(count, max(num_images >> number, least)) for count, number in zip(counts, halvings, strict=True)]


def difference(one: Candidate, other: Candidate, metric: str) -> MetricValue:
    """A metric of one candidate minus that of another, over their seeds, which are the same."""
    pairs = zip(one.metrics[metric].values, other.metrics[metric].values, strict=True)
    return MetricValue.over_seeds([value - of_other for value, of_other in pairs], n=None)


def is_below(value: MetricValue) -> bool:
    """Whether a difference is measurably below 0."""
    return Verdict(difference=value.mean, stderr=value.stderr).word == "lower"


def ranked(candidates: Sequence[Candidate], metric: str, least_recall: float | None) -> list[Candidate]:
    """By increasing distance; then those below the least recall, by decreasing recall."""

    def place(one: Candidate) -> tuple[bool, float]:
        fails = not _has_recall(one, least_recall)
        return fails, -one.metrics["recall"].mean if fails else one.metrics[metric].mean

    return sorted(candidates, key=place)


def survivors(
    candidates: Sequence[Candidate], count: int, metric: str, least_recall: float | None = None
) -> list[Candidate]:
    """Those that are in the next round: in turn the best one by `ranked`, and the one with the fewest network calls of those
    that are not measurably worse than the best."""
    best = ranked(candidates, metric, least_recall)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(best, _equals_of_best(candidates, metric, least_recall)))
    chosen = dict.fromkeys(one.name for one in in_turn if one is not None)
    names = [*chosen][:count]
    return [one for one in candidates if one.name in names]


def best_of(candidates: Sequence[Candidate], metric: str, least_recall: float | None = None) -> Candidate | None:
    """The one with the fewest network calls of those that are not measurably worse than the best; None = none reaches
    the least recall."""
    return next(iter(_equals_of_best(candidates, metric, least_recall)), None)


def _equals_of_best(candidates: Sequence[Candidate], metric: str, least_recall: float | None) -> list[Candidate]:
    able = [one for one in ranked(candidates, metric, least_recall) if _has_recall(one, least_recall)]
    equals = [one for one in able if one is able[0] or not is_below(difference(able[0], one, metric))]
    return sorted(equals, key=lambda one: (one.network_calls, one.metrics[metric].mean))


def _has_recall(candidate: Candidate, least: float | None) -> bool:
    return least is None or candidate.metrics["recall"].mean >= least
