"""Metric for `evaluate`: the kernel distance of two sets of features, see `hf_ddpm.metrics.kernel`."""

from __future__ import annotations

import numpy as np

from hf_ddpm.metrics import kernel
from hf_ddpm.metrics.hf_evaluate.two_sets import TwoSetMetric


class KernelDistance(TwoSetMetric):
    """See `hf_ddpm.metrics.kernel`."""

    DESCRIPTION = """
    Kernel distance of two sets of features: the unbiased squared maximum mean discrepancy with the kernel (x . y / D +
    1)^3. Its expectation is 0 for equal distributions and does not depend on the numbers of images. With Inception
    features it is KID.
    """
    CITATION = r"""
    @inproceedings{binkowski2018demystifying,
      title={Demystifying {MMD} {GANs}},
      author={Bi{\'n}kowski, Miko{\l}aj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur},
      booktitle={International Conference on Learning Representations}, year={2018}
    }
    """
    OPTIONS = """
    subset_size: images of each side in a subset; None = all images, once.
    num_subsets: number of subsets to average over.
    seed: of the subsets.
    """
    RETURNS = """
    kernel_distance: float.
    """

    def score(
        self,
        predictions: np.ndarray,
        references: np.ndarray,
        *,
        subset_size: int | None = None,
        num_subsets: int = 1,
        seed: int = 0,
    ) -> dict[str, float]:
        distance = kernel.kernel_distance(
            predictions, references, subset_size=subset_size, num_subsets=num_subsets, seed=seed
        )
        return {"kernel_distance": distance}
