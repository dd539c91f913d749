"""The table of an evaluation."""

from hf_ddpm.evaluation.report import markdown_report
from hf_ddpm.results import ClassMetricValue, MetricValue, Results


def value(mean: float, stderr: float | None = None) -> MetricValue:
    return MetricValue(mean=mean, stderr=stderr, n=1000, values=[mean])


def of_class(mean: float, floor: float | None) -> ClassMetricValue:
    return ClassMetricValue(mean=mean, stderr=None, n=1000, values=[mean], floor=floor)


def test_a_class_may_lack_a_metric():
    """A single image has no distance."""
    protocol = {
        "seeds": [0], "num_images": 1000, "num_inference_steps": 20, "scheduler": "DDIMScheduler", "guidance_scale": 1.5,
        "reference_split": "train", "reference_images": 60_000, "command": "python train_scripts/evaluate_model.py",
    }  # fmt: skip
    results = Results(
        metrics={"fd_judge": value(1.25, 0.0731), "precision": value(0.5)},
        floor={"fd_judge": 0.8366},
        ceiling={},
        per_class={
            "a|b": {"class_accuracy": of_class(1.0, None)},
            "c": {"class_accuracy": of_class(0.5, 0.25), "fd_judge": of_class(3.0, 2.0)},
        },
        notes=["a note"],
        protocol=protocol,
    )
    lines = markdown_report(results).splitlines()
    assert "| fd_judge | 1.25 ± 0.07 | 1,000 | 0.8366 |  |" in lines
    assert "| precision | 0.5 | 1,000 |  |  |" in lines
    assert "| class | class_accuracy | real images | fd_judge | real images |" in lines
    assert r"| a\|b | 1 |  |  |  |" in lines and "| c | 0.5 | 0.25 | 3 | 2 |" in lines
    assert "- a note" in lines and "s = 1.5 (w = 0.5)" in lines[0] and lines[-2] == protocol["command"]
