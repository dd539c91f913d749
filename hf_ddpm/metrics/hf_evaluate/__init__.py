"""The metrics for Hugging Face `evaluate`: `evaluate.load(metric_path("frechet_distance"))`, also offline."""

from __future__ import annotations

from pathlib import Path


def metric_path(name: str) -> str:
    """Path of a metric's script, for `evaluate.load`.

    Args:
        name: of a script in this folder.

    Raises:
        ValueError: unknown metric.
    """
    root = Path(__file__).parent
    names = sorted(script.stem for script in root.glob("*.py") if script.stem not in ("__init__", "two_sets"))
    if name not in names:
        raise ValueError(f"metric is {name!r}: give one of {', '.join(names)}")
    return str(root / f"{name}.py")
