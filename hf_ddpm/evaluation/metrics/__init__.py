"""The measures as metrics of Hugging Face `evaluate`: `evaluate.load(metric_path("frechet_distance"))`, offline too."""

from __future__ import annotations

from pathlib import Path


def metric_path(name: str) -> str:
    """Folder of a metric, as `evaluate.load` takes it.

    Args:
        name: of one of the folders that stand beside this file.

    Raises:
        ValueError: there is no such metric.
    """
    root = Path(__file__).parent
    names = sorted(script.stem for script in root.glob("*/*.py") if script.stem == script.parent.name)
    if name not in names:
        raise ValueError(f"metric is {name!r}: give one of {', '.join(names)}")
    return str(root / name)
