"""Inception score: bounds, the two reference implementations, and sums that do not depend on batches or processes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torchmetrics.image.inception import InceptionScore

from hf_ddpm.metrics.inception_score import RunningInceptionScore

CLASSES = 4


def draw_logits(num_images: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(num_images, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def score_of(probabilities, num_splits: int = 1) -> tuple[float, float]:
    running = RunningInceptionScore(probabilities.shape[1], num_splits)
    running.update(probabilities, np.arange(len(probabilities)), len(probabilities))
    return running.result()


@pytest.mark.parametrize(("num_images", "splits"), [(40, 1), (40, 10), (43, 10), (7, 7)])
def test_it_equals_torch_fidelity(num_images, splits):
    logits = draw_logits(num_images)
    expected = isc_features_to_metric(logits, splits=splits)
    mean, std = score_of(logits.softmax(dim=1), splits)
    assert mean == pytest.approx(expected[KEY_METRIC_ISC_MEAN], rel=1e-9)
    assert std == pytest.approx(expected[KEY_METRIC_ISC_STD], rel=1e-9, abs=1e-12)


# It keeps the features of all images and says so, and its deviation of one part is not a number.
@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save all extracted features")
@pytest.mark.filterwarnings("ignore:std\\(\\). degrees of freedom is <= 0")
def test_it_equals_torchmetrics():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES, dtype=torch.float64)).eval()
    images = torch.randn(50, 3, 2, 2, dtype=torch.float64)
    metric = InceptionScore(feature=network, splits=1)
    metric.update(images)
    with torch.no_grad():
        mean, _ = score_of(network(images).softmax(dim=1))
    assert mean == pytest.approx(metric.compute()[0].item(), rel=1e-4)


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("order", ["sorted", "cyclic", "classes of unequal size"])
def test_images_in_the_order_of_their_classes_score_as_others_do(num_classes, order):
    labels = np.arange(1000) % num_classes
    if order == "classes of unequal size":
        labels = np.minimum(labels, np.random.default_rng(1).permutation(labels))
    in_order = labels if order == "cyclic" else np.sort(labels)
    scores = [score_of(np.eye(num_classes)[np.random.default_rng(seed).permutation(labels)], 10)[0] for seed in range(20)]
    mean, std = score_of(np.eye(num_classes)[in_order], 10)
    assert abs(mean - np.mean(scores)) < 5 * np.std(scores)
    assert std > 0


def test_its_bounds():
    assert score_of(np.eye(CLASSES)) == (pytest.approx(CLASSES), 0)
    assert score_of(np.eye(CLASSES)[np.zeros(8, dtype=int)]) == (pytest.approx(1), 0)
    assert score_of(np.full((8, CLASSES), 1 / CLASSES)) == (pytest.approx(1), 0)


def test_neither_batches_nor_order_nor_processes_matter():
    probabilities = draw_logits(43).softmax(dim=1).float().numpy()
    whole = score_of(probabilities, 5)
    merged = RunningInceptionScore(CLASSES, 5)
    for process in range(3):
        running = RunningInceptionScore(CLASSES, 5)
        mine = np.random.default_rng(process).permutation(np.arange(process, 43, 3))
        for positions in np.array_split(mine, 4):
            running.update(probabilities[positions], positions, 43)
        merged.merge(running)
    merged.merge(RunningInceptionScore(CLASSES, 5))
    assert merged.result() == pytest.approx(whole, rel=1e-9)


def test_certain_and_diverse_scores_more():
    logits = draw_logits(200)
    scores = [score_of((sharpness * logits).softmax(dim=1))[0] for sharpness in (0, 0.5, 1, 2, 4)]
    assert scores == sorted(scores) and scores[0] == pytest.approx(1) and scores[-1] < CLASSES


def test_missing_or_repeated_images_are_refused():
    probabilities = draw_logits(10).softmax(dim=1)
    running = RunningInceptionScore(CLASSES, 2)
    with pytest.raises(ValueError, match="has seen 0 of no images"):
        running.result()
    running.update(probabilities[:9], np.arange(9), 10)
    with pytest.raises(ValueError, match="has seen 9 of 10 images: give each of them once"):
        running.result()
    running.update(probabilities[:1], [0], 10)
    with pytest.raises(ValueError, match="give each of them once"):
        running.result()


def test_mistakes_are_refused():
    good = np.full((2, CLASSES), 1 / CLASSES)
    running = RunningInceptionScore(CLASSES, 2)
    cases = [
        (good[:, 1:], [0, 1], 10, "give \\(B, 4\\)"),
        (10 * good, [0, 1], 10, "give the softmax"),
        (good * np.nan, [0, 1], 10, "give the softmax"),
        (np.array([[1.5, -0.5, 0, 0]] * 2), [0, 1], 10, "give the softmax"),
        (good, [0], 10, "one for each of 2 images"),
        (good, [0, 0.5], 10, "positions are float64: give integers"),
        (good, [0, 10], 10, "positions are in 0..10: give 0 to 9"),
        (good, [-1, 0], 10, "positions are in -1..0"),
        (good[:1], [0], 1, "num_splits is 2: give at most 1"),
    ]
    for probabilities, positions, num_images, message in cases:
        with pytest.raises(ValueError, match=message):
            running.update(probabilities, positions, num_images)
    assert running.num_images is None and running.counts.sum() == 0
    running.update(good, [0, 1], 10)
    with pytest.raises(ValueError, match="num_images is 11: give 10"):
        running.update(good, [2, 3], 11)
    other = RunningInceptionScore(CLASSES, 2)
    other.update(good, [2, 3], 11)
    with pytest.raises(ValueError, match="num_images is 11: give 10"):
        running.merge(other)
    with pytest.raises(ValueError, match="merge those of \\(2, 4\\)"):
        running.merge(RunningInceptionScore(CLASSES, 3))
    with pytest.raises(ValueError, match="num_splits is 0"):
        RunningInceptionScore(CLASSES, 0)
