"""Metric of `evaluate`: the kernel distance of two sets of features, see `hf_ddpm.metrics.kernel`."""

from hf_ddpm.metrics import kernel
from hf_ddpm.metrics.hf_evaluate.two_sets import TwoSetMetric, metric_info

_DESCRIPTION = """
Kernel distance of two sets of features: the unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1)^3. Its
expectation is 0 for equal distributions and does not depend on the numbers of images. With Inception features it is KID.
"""

_CITATION = r"""
@inproceedings{binkowski2018demystifying,
  title={Demystifying {MMD} {GANs}},
  author={Bi{\'n}kowski, Miko{\l}aj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur},
  booktitle={International Conference on Learning Representations},
  year={2018}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: (N, D) features of the generated images.
    references: (M, D) features of the reference images; M may differ from N, and either side may be added alone.
    subset_size: images of each side in a subset; None = all images, once.
    num_subsets: subsets that the distance is the mean over.
    seed: of the drawing of subsets.

Returns:
    kernel_distance: float.
"""


class KernelDistance(TwoSetMetric):
    """See `hf_ddpm.metrics.kernel`."""

    def _info(self):
        return metric_info(_DESCRIPTION, _CITATION, _INPUTS_DESCRIPTION)

    def score(self, predictions, references, *, subset_size=None, num_subsets=1, seed=0):
        options = dict(subset_size=subset_size, num_subsets=num_subsets, seed=seed)
        return {"kernel_distance": kernel.kernel_distance(predictions, references, **options)}
