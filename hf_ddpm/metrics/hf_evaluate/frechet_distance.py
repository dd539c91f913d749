"""Metric of `evaluate`: the Frechet distance of two sets of features, see `hf_ddpm.metrics.frechet`."""

from hf_ddpm.metrics import frechet
from hf_ddpm.metrics.hf_evaluate.two_sets import TwoSetMetric, metric_info

_DESCRIPTION = """
Frechet distance of two sets of features: that of the Gaussians which have their means and covariances. It is 0 for equal
statistics. It is called FID only with the pool3 features of the Inception network of 2015 under the protocol of FID. Compare
values with the same numbers of images only: few images bias it upwards.
"""

_CITATION = """
@inproceedings{heusel2017gans,
  title={{GANs} trained by a two time-scale update rule converge to a local {Nash} equilibrium},
  author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
  booktitle={Advances in Neural Information Processing Systems},
  year={2017}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: (N, D) features of the generated images.
    references: (M, D) features of the reference images; M may differ from N, and either side may be added alone.

Returns:
    frechet_distance: float, in squared units of the features.
"""


class FrechetDistance(TwoSetMetric):
    """See `hf_ddpm.metrics.frechet`."""

    def _info(self):
        return metric_info(_DESCRIPTION, _CITATION, _INPUTS_DESCRIPTION)

    def score(self, predictions, references):
        statistics = []
        for features in (predictions, references):
            running = frechet.RunningStatistics(references.shape[1])
            running.update(features)
            statistics.append(running.result())
        return {"frechet_distance": frechet.frechet_distance(*statistics)}
