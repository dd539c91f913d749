"""Base class of the metrics that compare two sets of features of any sizes.

`evaluate` refuses predictions and references of different lengths. Here the shorter side is padded with empty rows, which
are removed again; `add_batch` may also take one side alone.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from hf_ddpm.metrics.arrays import checked_features

INPUTS = """
Args:
    predictions: (N, D) features of the generated images.
    references: (M, D) features of the reference images; M may differ from N, and either side may be added alone.
"""


class TwoSetMetric(evaluate.Metric, ABC):
    """A metric of (N, D) predictions and (M, D) references.

    `evaluate.load` takes the first metric class of a script, and skips this one because it is abstract.
    """

    DESCRIPTION: ClassVar[str]
    CITATION: ClassVar[str]
    """BibTeX."""
    OPTIONS: ClassVar[str] = ""
    """One line per keyword of `score`."""
    RETURNS: ClassVar[str]
    """One line per value that `score` returns."""

    @abstractmethod
    def score(self, *sides: Any, **options: Any) -> dict[str, Any]:
        """Compute from (N, D) predictions and (M, D) references, float64; `options` are the other keywords of `compute`."""

    def add_batch(self, *, predictions: ArrayLike | None = None, references: ArrayLike | None = None) -> None:
        """Add (B, D) and (B', D) rows, or None to one side; a `ValueError` for a wrong shape, or a value not finite."""
        given = {"predictions": predictions, "references": references}
        rows = {name: [] if side is None else list(checked_features(side, name)) for name, side in given.items()}
        length = max(map(len, rows.values()))
        if length:
            super().add_batch(**{name: side + [None] * (length - len(side)) for name, side in rows.items()})

    def add(self, *, prediction: ArrayLike | None = None, reference: ArrayLike | None = None) -> None:
        """Add one (D,) row to one side or both; see `add_batch`."""
        one = {"predictions": prediction, "references": reference}
        self.add_batch(**{name: None if row is None else np.asarray(row)[None] for name, row in one.items()})

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=inspect.cleandoc(self.DESCRIPTION),
            citation=inspect.cleandoc(self.CITATION),
            inputs_description=f"{INPUTS}{self.OPTIONS.rstrip()}\n\nReturns:{self.RETURNS.rstrip()}\n",
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, *, predictions: list[Any], references: list[Any], **options: Any) -> dict[str, Any]:
        sides = []
        for name, padded in (("predictions", predictions), ("references", references)):
            rows = [row for row in padded if row is not None]
            if not rows:
                raise ValueError(f"there are no {name}: give them to add_batch or compute")
            if len({len(row) for row in rows}) > 1:
                raise ValueError(f"{name} have different dimensions: give features of one extractor")
            sides.append(np.array(rows))
        return self.score(*sides, **options)
