"""The metrics for Hugging Face `evaluate`: `evaluate.load(metric_path("frechet_distance"))`, also offline."""

from __future__ import annotations

from pathlib import Path


def metric_path(name: str) -> str:
    """Path of a metric's script in this folder, for `evaluate.load`; a `ValueError` for an unknown name."""
    scripts = {path.stem: path for path in sorted(Path(__file__).parent.glob("[a-z]*.py")) if path.stem != "two_sets"}
    if name not in scripts:
        raise ValueError(f"metric is {name!r}: give one of {', '.join(scripts)}")
    return str(scripts[name])
