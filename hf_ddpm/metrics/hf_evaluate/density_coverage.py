"""Metric of `evaluate`: density and coverage of two sets of features, see `hf_ddpm.metrics.precision_recall`."""

from hf_ddpm.metrics import precision_recall
from hf_ddpm.metrics.hf_evaluate.two_sets import TwoSetMetric, metric_info

_DESCRIPTION = """
Density is the mean number of neighbourhoods of reference images that a generated image lies in, divided by k; coverage is
the part of the reference images whose neighbourhood holds a generated image. A neighbourhood reaches to the k-th nearest
other reference image.
"""

_CITATION = """
@inproceedings{naeem2020reliable,
  title={Reliable fidelity and diversity metrics for generative models},
  author={Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, Yunjey and Yoo, Jaejun},
  booktitle={International Conference on Machine Learning},
  year={2020}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: (N, D) features of the generated images.
    references: (M, D) features of the reference images; M may differ from N, and either side may be added alone.
    nearest_k: k of the neighbourhoods, 5 by default.

Returns:
    density: float, 0 or more; 1 is expected of equal distributions.
    coverage: float in [0, 1].
"""


class DensityCoverage(TwoSetMetric):
    """See `hf_ddpm.metrics.precision_recall`."""

    def _info(self):
        return metric_info(_DESCRIPTION, _CITATION, _INPUTS_DESCRIPTION)

    def score(self, predictions, references, *, nearest_k=5):
        density, coverage = precision_recall.density_coverage(predictions, references, nearest_k=nearest_k)
        return {"density": density, "coverage": coverage}
