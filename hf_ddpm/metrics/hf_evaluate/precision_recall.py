"""Metric for `evaluate`: precision and recall of two sets of features, see `hf_ddpm.metrics.precision_recall`."""

from __future__ import annotations

import numpy as np

from hf_ddpm.metrics import precision_recall
from hf_ddpm.metrics.hf_evaluate.two_sets import TwoSetMetric


class PrecisionRecall(TwoSetMetric):
    """See `hf_ddpm.metrics.precision_recall`."""

    DESCRIPTION = """
    Precision is the fraction of generated images in the neighbourhood of a reference image, recall the fraction of
    reference images in the neighbourhood of a generated one; a neighbourhood extends to the k-th nearest other image of
    the same set.
    """
    CITATION = r"""
    @inproceedings{kynkaanniemi2019improved,
      title={Improved precision and recall metric for assessing generative models},
      author={Kynk{\"a}{\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo},
      booktitle={Advances in Neural Information Processing Systems}, year={2019}
    }
    """
    OPTIONS = """
    nearest_k: k of the neighbourhoods, 3 by default.
    """
    RETURNS = """
    precision: float in [0, 1].
    recall: float in [0, 1].
    """

    def score(self, predictions: np.ndarray, references: np.ndarray, *, nearest_k: int = 3) -> dict[str, float]:
        precision, recall = precision_recall.precision_recall(predictions, references, nearest_k=nearest_k)
        return {"precision": precision, "recall": recall}
