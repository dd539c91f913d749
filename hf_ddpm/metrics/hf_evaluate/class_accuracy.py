"""Metric of `evaluate`: how many images look like the class that was asked for, overall and for each class."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Class accuracy of a conditional generator: the part of the generated images in which a classifier that was trained on the
same data sees the class that was asked for. It says little where the classifier errs, so its own accuracy belongs beside it.
"""

_CITATION = """
@inproceedings{ravuri2019classification,
  title={Classification accuracy score for conditional generative models},
  author={Ravuri, Suman and Vinyals, Oriol},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: (N,) integers, the class that the classifier sees in each image.
    references: (N,) integers, the class that was asked for.

Returns:
    class_accuracy: float in [0, 1], over all images.
    per_class: accuracy of each class that was asked for, by its number.
"""


class ClassAccuracy(evaluate.Metric):
    """Predicted against asked classes."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": number, "references": number}),
            format="numpy",
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        right = predictions == references
        per_class = {int(asked): float(right[references == asked].mean()) for asked in np.unique(references)}
        return {"class_accuracy": float(right.mean()), "per_class": per_class}
