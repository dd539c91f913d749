"""Metric for `evaluate`: density and coverage of two sets of features, see `hf_ddpm.metrics.precision_recall`."""

from __future__ import annotations

import numpy as np

from hf_ddpm.metrics import precision_recall
from hf_ddpm.metrics.hf_evaluate.two_sets import TwoSetMetric


class DensityCoverage(TwoSetMetric):
    """See `hf_ddpm.metrics.precision_recall`."""

    DESCRIPTION = """
    Density is the mean number of neighbourhoods of reference images that a generated image is in, divided by k; coverage is
    the fraction of reference images whose neighbourhood contains a generated image. A neighbourhood extends to the k-th
    nearest other reference image.
    """
    CITATION = """
    @inproceedings{naeem2020reliable,
      title={Reliable fidelity and diversity metrics for generative models},
      author={Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, Yunjey and Yoo, Jaejun},
      booktitle={International Conference on Machine Learning}, year={2020}
    }
    """
    OPTIONS = """
    nearest_k: k of the neighbourhoods, 5 by default.
    """
    RETURNS = """
    density: float, 0 or more; 1 is expected of equal distributions.
    coverage: float in [0, 1].
    """

    def score(self, predictions: np.ndarray, references: np.ndarray, *, nearest_k: int = 5) -> dict[str, float]:
        density, coverage = precision_recall.density_coverage(predictions, references, nearest_k=nearest_k)
        return {"density": density, "coverage": coverage}
