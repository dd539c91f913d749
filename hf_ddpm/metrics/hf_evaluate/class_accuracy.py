"""Metric for `evaluate`: fraction of images classified as the requested class, overall and per class."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Class accuracy of a conditional generator: the fraction of generated images that a classifier, trained on the same data,
assigns to the requested class. It is meaningful only if the classifier is good, so report the classifier's accuracy with it.
"""

_CITATION = """
@inproceedings{ravuri2019classification,
  title={Classification accuracy score for conditional generative models},
  author={Ravuri, Suman and Vinyals, Oriol},
  booktitle={Advances in Neural Information Processing Systems}, year={2019}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: (N,) integers, the predicted class of each image.
    references: (N,) integers, the requested class of each image.

Returns:
    class_accuracy: float in [0, 1], over all images.
    per_class: accuracy of each requested class, by its number.
"""


class ClassAccuracy(evaluate.Metric):
    """Predicted against requested classes."""

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
        is_correct = predictions == references
        per_class = {int(label): float(is_correct[references == label].mean()) for label in np.unique(references)}
        return {"class_accuracy": float(is_correct.mean()), "per_class": per_class}
