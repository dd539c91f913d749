"""Whether two settings differ by more than their trainings do: `Verdict.between(distances, others, paired=False).word`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from hf_ddpm.markdown import mean_with_error
from hf_ddpm.results import MetricValue

LIMIT = 2.0
"""Standard errors above which a difference decides."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A difference of a metric: `lower` or `higher` if it exceeds two standard errors over trainings, else `undecided`.

    With three trainings of each, two standard errors are a weak bound: recipes that do not differ exceed it in 12 % of
    comparisons (Student's t with 4 degrees of freedom; 18 % if paired, with 2), instead of the 5 % of many trainings.
    """

    difference: float
    stderr: float | None
    """None = one training of each, which decides nothing."""

    @classmethod
    def between(cls, first: Sequence[float], second: Sequence[float], *, paired: bool) -> Self:
        """Of the mean of `first` from that of `second`, values of at least two trainings each.

        `paired`: both are of the same trainings, in the same order; otherwise their errors add up as those of
        independent means, because a training seed does the same to no two recipes.
        """
        if paired:
            both = MetricValue.over_seeds([one - other for one, other in zip(first, second, strict=True)], n=None)
            return cls(difference=both.mean, stderr=both.stderr)
        one, other = (MetricValue.over_seeds(list(values), n=None) for values in (first, second))
        stderr = None if one.stderr is None or other.stderr is None else math.hypot(one.stderr, other.stderr)
        return cls(difference=one.mean - other.mean, stderr=stderr)

    @property
    def word(self) -> str:
        """`lower`, `higher` or `undecided`."""
        if self.stderr is None or not abs(self.difference) > LIMIT * self.stderr:
            return "undecided"
        return self._direction

    def __str__(self) -> str:
        """As `**lower** by 0.75 ± 0.04` or `**undecided** (0.02 ± 0.05 higher)`."""
        if self.stderr is None:
            return "**undecided** (one training run each)"
        size = mean_with_error(abs(self.difference), self.stderr)
        if self.word == "undecided":
            return f"**undecided** ({size} {self._direction})" if self.difference else "**undecided** (no difference)"
        return f"**{self.word}** by {size}"

    @property
    def _direction(self) -> str:
        return "lower" if self.difference < 0 else "higher"
