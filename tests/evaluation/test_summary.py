"""Summaries equal what numpy computes from all features, in any batches."""

import numpy as np
import pytest
import torch

from hf_ddpm.evaluation import collectors
from hf_ddpm.evaluation.features import Features
from hf_ddpm.evaluation.summary import FeatureSummary
from hf_ddpm.metrics.inception_score import RunningInceptionScore, shuffled

N, D, K = 53, 4, 3
NAMES, PREDICTED = ["cat", "dog", "owl"], ["owl", "cat", "dog"]
RNG = np.random.default_rng(0)
FEATURES = (1000 + RNG.normal(size=(N, D))).astype(np.float32)
LABELS = RNG.integers(0, K, N)
PROBABILITIES = RNG.dirichlet(np.ones(K), N)


def empty(**options) -> FeatureSummary:
    options = {"max_features": 10, "class_names": NAMES, "predicted_class_names": PREDICTED, **options}
    return FeatureSummary(dim=D, total_images=N, **options)


def add(summary: FeatureSummary, positions: np.ndarray) -> None:
    features = Features(torch.from_numpy(FEATURES[positions]), torch.from_numpy(PROBABILITIES[positions]))
    summary.update(features, torch.from_numpy(LABELS[positions]), torch.from_numpy(positions))


def summarise(order: np.ndarray, batch_size: int = 7, num_processes: int = 1) -> FeatureSummary:
    parts = [empty() for _ in range(num_processes)]
    for part, positions in zip(parts, np.array_split(order, num_processes), strict=True):
        for start in range(0, len(positions), batch_size):
            add(part, positions[start : start + batch_size])
    whole = empty()
    for part in parts:
        whole.merge(part)
    return whole


def assert_equal(found: FeatureSummary, expected: FeatureSummary) -> None:
    for name, array in expected.to_arrays().items():
        np.testing.assert_allclose(found.to_arrays()[name], array, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("waiting", [1, 20, 4096])
@pytest.mark.parametrize("num_processes", [1, 2, 5, 60])
@pytest.mark.parametrize("batch_size", [1, 8, N])
def test_neither_batch_size_nor_order_nor_processes_change_a_summary(monkeypatch, batch_size, num_processes, waiting):
    monkeypatch.setattr(collectors, "WAITING", waiting)
    order = np.random.default_rng(batch_size).permutation(N)
    at_once = empty()
    add(at_once, np.arange(N))
    assert_equal(summarise(order, batch_size, num_processes), at_once)


def test_a_batch_may_be_overwritten_by_the_next():
    summary, features = empty(), torch.empty(1, D)
    probabilities, (labels, positions) = torch.empty(1, K), torch.zeros(2, 1, dtype=torch.int64)
    for position in range(N):
        features[0], probabilities[0] = torch.from_numpy(FEATURES[position]), torch.from_numpy(PROBABILITIES[position])
        labels[0], positions[0] = int(LABELS[position]), position
        summary.update(Features(features, probabilities.double()), labels, positions)
    np.testing.assert_allclose(summary.statistics.mean, FEATURES.mean(axis=0, dtype=np.float64))
    assert summary.class_statistics.keys() == {0, 1, 2}


def test_moments_are_those_of_numpy_for_all_images_and_for_each_class():
    summary = summarise(np.arange(N))
    exact = FEATURES.astype(np.float64)
    moments = {None: summary.statistics, **summary.class_statistics}
    assert moments.keys() == {None, 0, 1, 2}
    for label, statistics in moments.items():
        chosen = exact if label is None else exact[label == LABELS]
        assert statistics.num_images == len(chosen)
        np.testing.assert_allclose(statistics.mean, chosen.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(statistics.covariance, np.cov(chosen, rowvar=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("max_features", [1, 2, 10, N - 1, N, N + 1, 10_000])
def test_kept_features_are_the_same_in_any_order(max_features):
    summary = empty(max_features=max_features)
    add(summary, np.random.default_rng(1).permutation(N))
    num_kept = min(N, max_features)
    positions = np.sort(shuffled(N)[:num_kept])
    assert summary.kept_features.dtype == np.float32
    np.testing.assert_array_equal(summary.kept_features, FEATURES[positions])
    np.testing.assert_array_equal(summary.to_arrays()["kept_labels"], LABELS[positions])


def test_kept_features_have_all_classes_where_classes_take_turns():
    kept = collectors.KeptFeatures(1, 20_000, 10_000)
    labels = np.arange(20_000) % 10
    kept.update(collectors.Batch(rows=labels[:, None], labels=labels, positions=np.arange(20_000), probabilities=None))
    assert kept.is_kept.all()
    counts = np.bincount(kept.labels)
    assert len(counts) == 10 and abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_predictions_are_compared_by_the_names_of_the_classes():
    summary = summarise(np.arange(N))
    is_correct = np.array([PREDICTED[k] for k in PROBABILITIES.argmax(axis=1)]) == np.array(NAMES)[LABELS]
    assert summary.accuracy == pytest.approx(is_correct.mean())
    assert 0 < summary.accuracy < 1
    expected = {label: is_correct[label == LABELS].mean() for label in range(K)}
    assert summary.class_accuracy == pytest.approx(expected)
    assert summary.to_arrays()["counts"].tolist() == [(label == LABELS).sum() for label in range(K)]


def test_the_classes_may_be_a_subset_of_the_extractors():
    summary = FeatureSummary(dim=D, total_images=2, class_names=["dog"], predicted_class_names=PREDICTED)
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.2, 0.2]])
    summary.update(Features(torch.zeros(2, D), probabilities), [0, 0], [0, 1])
    assert summary.accuracy == 0.5
    assert summary.inception_score is None, "fewer images than parts"
    with pytest.raises(ValueError, match="knows owl, cat, dog but not 'fox'"):
        FeatureSummary(dim=D, total_images=2, class_names=["dog", "fox"], predicted_class_names=PREDICTED)


def test_the_inception_score_is_that_of_all_probabilities():
    score = RunningInceptionScore(K, 10)
    score.update(PROBABILITIES, np.arange(N), N)
    assert summarise(np.random.default_rng(2).permutation(N), num_processes=3).inception_score == pytest.approx(
        score.result()
    )


def test_images_without_labels_or_predictions_leave_moments_and_features():
    summary = empty(class_names=None, predicted_class_names=None)
    summary.update(Features(torch.from_numpy(FEATURES)), None, np.arange(N, dtype=np.uint8))
    assert summary.statistics.num_images == N
    found = (
        summary.class_statistics,
        summary.accuracy,
        summary.class_accuracy,
        summary.inception_score,
    )
    assert found == (None,) * 4 and summary.to_arrays()["counts"].size == 0


def test_moments_of_too_many_classes_are_not_kept(monkeypatch):
    monkeypatch.setattr(collectors, "MAX_CLASS_BYTES", K * D * D * 8)
    assert summarise(np.arange(N)).class_statistics is not None
    monkeypatch.setattr(collectors, "MAX_CLASS_BYTES", K * D * D * 8 - 1)
    summary = summarise(np.arange(N))
    assert summary.class_statistics is None and summary.accuracy is not None


def test_a_class_of_one_image_has_no_moments():
    summary = FeatureSummary(dim=D, total_images=3, class_names=NAMES)
    summary.update(Features(torch.from_numpy(FEATURES[:3])), [0, 1, 0], [0, 1, 2])
    assert list(summary.class_statistics) == [0]


def test_memory_does_not_grow_with_the_number_of_images():
    few, many = (FeatureSummary(dim=D, total_images=n, max_features=100) for n in (100_000, 10_000_000))
    for summary in (few, many):
        rows = Features(torch.zeros(5000, D))
        for start in range(0, 50_000, 5000):
            summary.update(rows, None, np.arange(start, start + 5000))
        assert sum(len(rows) for rows, _ in summary._moments._waiting) < collectors.WAITING
    parts = ([value for part in s._collectors for value in vars(part).values()] for s in (few, many))
    sizes = [sum(value.nbytes for value in values if isinstance(value, np.ndarray)) for values in parts]
    assert sizes[0] == sizes[1] < 10_000


@pytest.mark.parametrize("name", [*summarise(np.arange(N)).to_arrays()])
def test_arrays_restore_the_summary_and_a_missing_or_wrong_one_is_refused(name):
    arrays = summarise(np.arange(N)).to_arrays()
    copy = empty()
    copy.load_arrays(arrays)
    assert_equal(copy, summarise(np.arange(N)))
    assert copy.inception_score == summarise(np.arange(N)).inception_score
    without = {key: value for key, value in arrays.items() if key != name}
    if name != "score_sums":
        with pytest.raises(ValueError, match=f"{name} is missing"):
            empty().load_arrays(without)
    for wrong in (arrays[name].astype(np.float16), arrays[name][None], arrays[name].astype(object)):
        with pytest.raises(ValueError, match=name):
            empty().load_arrays({**arrays, name: wrong})
    if arrays[name].dtype.kind == "f":
        with pytest.raises(ValueError, match="not finite"):
            empty().load_arrays({**arrays, name: arrays[name] * np.nan})


def test_repeated_or_missing_images_are_refused():
    summary = empty()
    add(summary, np.arange(N - 1))
    with pytest.raises(ValueError, match=f"seen {N - 1} of {N}"):
        _ = summary.statistics
    with pytest.raises(ValueError, match="twice"):
        add(summary, np.array([0]))
    with pytest.raises(ValueError, match="twice"):
        summary.merge(summary)
    add(summary, np.array([N - 1]))
    assert summary.num_images == summary.statistics.num_images == N
    with pytest.raises(ValueError, match="twice"):
        add(summary, np.array([1]))
    with pytest.raises(ValueError, match="twice"):
        add(empty(), np.array([0, 0]))


@pytest.mark.parametrize(
    ("labels", "positions", "message"),
    [
        (None, [0, 1], "class_labels"),
        ([0, K], [0, 1], "class_labels"),
        ([-1, 0], [0, 1], "class_labels"),
        ([0.0, 1.0], [0, 1], "class_labels"),
        ([0], [0, 1], "class_labels"),
        ([0, 1], [0, N], "positions"),
        ([0, 1], [-1, 0], "positions"),
        ([0, 1], [0], "positions"),
        ([0, 1], [0.0, 1.0], "positions"),
    ],
)
def test_wrong_labels_and_positions_are_refused(labels, positions, message):
    summary = empty()
    with pytest.raises(ValueError, match=message):
        summary.update(Features(torch.zeros(2, D), torch.full((2, K), 1 / K)), labels, positions)
    assert summary.num_images == 0


def test_a_feature_that_is_not_finite_names_its_image():
    features = torch.zeros(3, D)
    features[1, 2] = torch.nan
    with pytest.raises(ValueError, match="image 7"):
        empty().update(Features(features, torch.full((3, K), 1 / K)), [0, 0, 0], [5, 7, 9])


@pytest.mark.parametrize("option", ["total_images", "max_features"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(ValueError, match=f"{option} is 0"):
        FeatureSummary(**{"dim": D, "total_images": 1, option: 0})
