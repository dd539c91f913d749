"""The measures as metrics of Hugging Face `evaluate`: `evaluate.load(metric_path("frechet_distance"))`, offline too."""

from __future__ import annotations

from pathlib import Path


def metric_path(name: str) -> str:
    """Path of the script of a metric, as `evaluate.load` takes it.

    Args:
        name: of one of the scripts that stand beside this file.

    Raises:
        ValueError: there is no such metric.
    """
    root = Path(__file__).parent
    names = sorted(script.stem for script in root.glob("*.py") if script.stem not in ("__init__", "two_sets"))
    if name not in names:
        raise ValueError(f"metric is {name!r}: give one of {', '.join(names)}")
    return str(root / f"{name}.py")
