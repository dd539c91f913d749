"""Metric for `evaluate`: the Frechet distance of two sets of features, see `hf_ddpm.metrics.frechet`."""

from __future__ import annotations

import numpy as np

from hf_ddpm.metrics import frechet
from hf_ddpm.metrics.hf_evaluate.two_sets import TwoSetMetric


class FrechetDistance(TwoSetMetric):
    """See `hf_ddpm.metrics.frechet`."""

    DESCRIPTION = """
    Frechet distance of two sets of features: that of Gaussians with their means and covariances. It is 0 for equal
    statistics. It is called FID only with the pool3 features of the Inception network of 2015 under the protocol
    of FID. Compare values with the same numbers of images only: few images bias it upwards.
    """
    CITATION = """
    @inproceedings{heusel2017gans,
      title={{GANs} trained by a two time-scale update rule converge to a local {Nash} equilibrium},
      author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
      booktitle={Advances in Neural Information Processing Systems}, year={2017}
    }
    """
    RETURNS = """
    frechet_distance: float, in squared units of the features.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        sides = [frechet.RunningStatistics(references.shape[1]) for _ in range(2)]
        sides[0].update(predictions)
        sides[1].update(references)
        return {"frechet_distance": frechet.frechet_distance(*(side.result() for side in sides))}
