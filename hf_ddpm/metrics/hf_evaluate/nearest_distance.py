"""Metric for `evaluate`: the distance of each image to its nearest reference, see `hf_ddpm.metrics.nearest`."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_ddpm.metrics import nearest
from hf_ddpm.metrics.hf_evaluate.two_sets import TwoSetMetric


class NearestDistance(TwoSetMetric):
    """See `hf_ddpm.metrics.nearest`."""

    DESCRIPTION = """
    Euclidean distance of each generated image to its nearest reference image. Where generated images lie nearer to the
    training images than held-out images do, the model has memorised.
    """
    CITATION = """
    @inproceedings{meehan2020nonparametric,
      title={A non-parametric test to detect data-copying in generative models},
      author={Meehan, Casey and Chaudhuri, Kamalika and Dasgupta, Sanjoy},
      booktitle={International Conference on Artificial Intelligence and Statistics}, year={2020}
    }
    """
    RETURNS = """
    nearest_distance: float, the mean over the predictions, in units of the features.
    distances: list of N floats.
    indices: list of N integers, the row of the nearest reference of each.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, Any]:
        distances, indices = nearest.nearest_distances(predictions, references)
        mean = float(distances.mean(dtype="float64"))
        return {"nearest_distance": mean, "distances": distances.tolist(), "indices": indices.tolist()}
