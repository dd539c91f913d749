"""Metric for `evaluate`: the inception score of class probabilities, see `hf_ddpm.metrics.inception_score`."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from hf_ddpm.metrics import inception_score

_DESCRIPTION = """
Inception score: exp of the mean divergence of each image's class probabilities from their mean, over equal parts of the
images, which are shuffled first, always in the same way. It is 1 if the classifier cannot tell the images apart, and the
number of classes if all classes are equally frequent and every image is classified with certainty. Compare only values of
one classifier, number of images and number of parts.
"""

_CITATION = """
@inproceedings{salimans2016improved,
  title={Improved techniques for training {GANs}},
  author={Salimans, Tim and Goodfellow, Ian and Zaremba, Wojciech and Cheung, Vicki and Radford, Alec and Chen, Xi},
  booktitle={Advances in Neural Information Processing Systems}, year={2016}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: (N, K) class probabilities of the generated images.
    num_splits: parts that the images are divided into, 10 by default.

Returns:
    inception_score: float in [1, K], the mean over the parts.
    inception_score_std: float, the standard deviation over the parts.
"""


class InceptionScore(evaluate.Metric):
    """See `hf_ddpm.metrics.inception_score`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.List(datasets.Value("float64"))}),
        )

    def _compute(self, predictions: list[list[float]], *, num_splits: int = 10) -> dict[str, float]:
        running = inception_score.RunningInceptionScore(len(predictions[0]), num_splits)
        running.update(predictions, np.arange(len(predictions)), len(predictions))
        mean, std = running.result()
        return {"inception_score": mean, "inception_score_std": std}
