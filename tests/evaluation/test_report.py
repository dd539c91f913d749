"""The table of a measurement."""

from hf_ddpm.evaluation.report import markdown_report


def value(mean: float, stderr: float | None = None, **more) -> dict:
    return {"mean": mean, "stderr": stderr, "n": 1000, "values": [mean], **more}


def test_a_class_may_lack_a_metric():
    """Of one image there is no distance."""
    protocol = {
        "seeds": [0], "num_images": 1000, "num_inference_steps": 20, "scheduler": "DDIMScheduler", "guidance_scale": 1.5,
        "reference_split": "train", "reference_images": 60_000, "command": "python train_scripts/evaluate_model.py",
    }  # fmt: skip
    results = {
        "metrics": {"fd_judge": value(1.25, 0.0731), "precision": value(0.5)},
        "floor": {"fd_judge": 0.8366},
        "ceiling": {},
        "per_class": {"a|b": {"class_accuracy": value(1.0, floor=None)},
                      "c": {"class_accuracy": value(0.5, floor=0.25), "fd_judge": value(3.0, floor=2.0)}},
        "notes": ["a note"],
        "protocol": protocol,
    }  # fmt: skip
    lines = markdown_report(results).splitlines()
    assert "| fd_judge | 1.25 ± 0.073 | 1,000 | 0.8366 |  |" in lines
    assert "| precision | 0.5 | 1,000 |  |  |" in lines
    assert "| class | class_accuracy | floor | fd_judge | floor |" in lines
    assert "| a&#124;b | 1 |  |  |  |" in lines and "| c | 0.5 | 0.25 | 3 | 2 |" in lines
    assert "- a note" in lines and "s = 1.5 (w = 0.5)" in lines[0] and lines[-2] == protocol["command"]
