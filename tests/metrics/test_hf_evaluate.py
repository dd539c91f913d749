"""The metrics for `evaluate`: loaded offline, equal to the functions, for any numbers of rows."""

import socket
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from hf_ddpm.metrics import hf_evaluate
from hf_ddpm.metrics.frechet import RunningStatistics, frechet_distance
from hf_ddpm.metrics.hf_evaluate import metric_path
from hf_ddpm.metrics.inception_score import RunningInceptionScore
from hf_ddpm.metrics.kernel import kernel_distance
from hf_ddpm.metrics.nearest import nearest_distances
from hf_ddpm.metrics.precision_recall import density_coverage, precision_recall

NAMES = sorted(path.stem for path in Path(hf_evaluate.__file__).parent.glob("[a-z]*.py") if path.stem != "two_sets")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` of a metric by name, with its copies of scripts and data out of the user's cache and no network."""

    def refuse(*args):
        raise AssertionError("a metric reached for the network")

    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(socket.socket, "connect", refuse)
        yield lambda name, **options: evaluate.load(metric_path(name), cache_dir=str(folder / "data"), **options)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 4)) + 0.5


@pytest.fixture(scope="module")
def reference_features() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(40, 4))


def frechet(features, reference_features):
    sides = [RunningStatistics(4), RunningStatistics(4)]
    sides[0].update(features)
    sides[1].update(reference_features)
    return {"frechet_distance": frechet_distance(*(side.result() for side in sides))}


def nearest(features, reference_features):
    distances, indices = nearest_distances(features, reference_features)
    mean = pytest.approx(distances.mean())
    return {"nearest_distance": mean, "distances": distances.tolist(), "indices": indices.tolist()}


TWO_SETS = {
    "frechet_distance": (frechet, {}),
    "kernel_distance": (
        lambda x, y, **options: {"kernel_distance": kernel_distance(x, y, **options)},
        {"subset_size": 10, "num_subsets": 2, "seed": 3},
    ),
    "precision_recall": (
        lambda x, y, **options: dict(zip(("precision", "recall"), precision_recall(x, y, **options), strict=True)),
        {"nearest_k": 2},
    ),
    "density_coverage": (
        lambda x, y, **options: dict(zip(("density", "coverage"), density_coverage(x, y, **options), strict=True)),
        {"nearest_k": 2},
    ),
    "nearest_distance": (nearest, {}),
}


@pytest.mark.parametrize("name", TWO_SETS)
def test_two_sets_of_any_size_in_any_way(load, name, features, reference_features):
    function, options = TWO_SETS[name]
    expected = function(features, reference_features)
    metric = load(name)
    assert metric.compute(predictions=features, references=reference_features) == expected

    metric.add_batch(predictions=features[:20], references=reference_features[:10])
    metric.add_batch(predictions=torch.from_numpy(features[20:29]))
    metric.add(prediction=features[29], reference=reference_features[10])
    metric.add_batch(references=reference_features[11:].tolist())
    metric.add_batch(predictions=features[:0])
    assert metric.compute() == expected

    with_options = metric.compute(predictions=features, references=reference_features, **options)
    assert with_options == function(features, reference_features, **options)
    assert not options or with_options != expected


def test_every_metric_is_described_and_tested(load):
    assert set(NAMES) == {*TWO_SETS, "inception_score", "class_accuracy"}
    for name in NAMES:
        metric = load(name)
        assert metric.name == name
        assert "@inproceedings" in metric.citation and metric.description.strip()
        assert "predictions" in metric.inputs_description and "Returns:" in metric.inputs_description
        assert name == "inception_score" or "references" in metric.inputs_description


def test_inception_score(load):
    probabilities = torch.randn(23, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    running = RunningInceptionScore(5, 4)
    running.update(probabilities, np.arange(23), 23)
    mean, std = running.result()
    metric = load("inception_score")
    for start in range(0, 23, 10):
        metric.add_batch(predictions=probabilities[start : start + 10])
    assert metric.compute(num_splits=4) == {"inception_score": mean, "inception_score_std": std}


def test_class_accuracy(load):
    metric = load("class_accuracy")
    metric.add_batch(predictions=torch.tensor([1, 2, 0]), references=[1, 1, 0])
    metric.add_batch(predictions=np.array([7]), references=np.array([3]))
    assert metric.compute() == {"class_accuracy": 0.5, "per_class": {0: 1.0, 1: 0.5, 3: 0.0}}
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        metric.add_batch(predictions=[1, 2], references=[1])


def test_mistakes_are_refused(load, features, reference_features):
    # In memory, since `evaluate` keeps the lock of a file whose metric failed, and the next one waits for it.
    kernel = load("kernel_distance", keep_in_memory=True)
    with pytest.raises(ValueError, match="metric is 'fid': give one of class_accuracy, .*precision_recall"):
        metric_path("fid")
    with pytest.raises(ValueError, match="there are no references"):
        kernel.compute(predictions=features)
    with pytest.raises(ValueError, match="features have 4 dimensions: give 3"):
        kernel.compute(predictions=features, references=reference_features[:, :3])
    with pytest.raises(ValueError, match="predictions are not finite in row 0"):
        kernel.add_batch(predictions=features * np.nan)
    kernel.add_batch(predictions=features, references=reference_features)
    kernel.add_batch(predictions=features[:, :3])
    with pytest.raises(ValueError, match="predictions have different dimensions"):
        kernel.compute()
    assert isinstance(kernel.compute(predictions=features, references=reference_features)["kernel_distance"], float)
