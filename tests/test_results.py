"""The file of an evaluation's results keeps its bytes, and a damaged one is refused in one line."""

import json

import pytest

from hf_ddpm.results import ClassMetricValue, MetricValue, Results

VALUE = {"mean": 0.5, "stderr": None, "n": 24, "values": [0.5]}
CONTENT = {
    "metrics": {"fd_judge": {"mean": 2.0, "stderr": 1.0, "n": 24, "values": [1.0, 3.0]}, "recall": VALUE},
    "floor": {"recall": 0.9, "fd_judge": 0.1},
    "ceiling": {"fd_judge": float("nan")},
    "per_class": {"é": {"class_accuracy": {**VALUE, "n": None, "floor": 1.0}}, "a": {}},
    "notes": ["few images"],
    "protocol": {"seeds": [0, 1], "scheduler": None, "packages": {"torch": "2"}, "added_by_a_program": 1},
}


def test_the_text_of_a_file_comes_back(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(CONTENT, indent=1) + "\n")
    results = Results.read(path)
    assert results.to_json() == path.read_text()
    assert results.metrics["fd_judge"] == MetricValue.over_seeds([1.0, 3.0], n=24)
    assert results.per_class["é"]["class_accuracy"] == ClassMetricValue.over_seeds([0.5], n=None, floor=1.0)


def test_metrics_alone_are_results():
    results = Results.from_json(json.dumps({"metrics": {"recall": VALUE}}))
    assert results == Results(metrics={"recall": MetricValue(**VALUE)}, floor={}, ceiling={})


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", "{}", '{"metrics": 3}', '{"metrics": {"recall": 0.5}}', '{"metrics": {"recall": {"mean": 0.5}}}']
    + [json.dumps({"metrics": {"recall": {**VALUE, name: wrong}}}) for name in VALUE for wrong in ("0.5", True, {"a": 1})]
    + [
        json.dumps({**CONTENT, part: wrong}) for part in ("floor", "ceiling", "per_class", "protocol") for wrong in (None, 3)
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "eval.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"eval\.json is damaged: these are not the results of an evaluation") as refused:
        Results.read(path)
    assert "\n" not in str(refused.value)
