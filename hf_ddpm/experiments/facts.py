"""All facts on the page of a comparison: `ComparisonFacts.from_json(path.read_text())` reads a comparison.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hf_ddpm.experiments.tables import SweepRow, means_over_trainings
from hf_ddpm.markdown import without_paths
from hf_ddpm.results import ClassMetricValue, MetricValue
from hf_ddpm.runtime.reading import parse_json


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """A trained model and the cost of its training."""

    name: str
    """Of the run folder."""
    recipe: str
    train_seed: int
    kind: str
    """`GAN` or `diffusion model`."""
    parameters: int
    """Parameters of the network that generates samples."""
    steps: int
    images_seen: int
    train_images: int | None
    """Images of the training split; None = not known."""
    images_per_second: float
    """Median over the logged steps."""
    seconds_per_epoch: float | None
    """At that speed."""
    training_seconds: float
    """Time of all optimizer steps."""
    final_losses: dict[str, float]
    """Mean of the last logged steps by the name of the loss."""
    samples: str | None
    """Path of the last sample grid; None = the run has none, or another training seed of the recipe is shown."""
    processor: str | None
    gpu: str | None
    num_processes: int
    num_threads: int
    """CPU threads of each process."""


@dataclass(frozen=True, kw_only=True)
class ComparisonFacts:
    """What was compared, and the results."""

    recipes: list[str]
    train_seeds: list[int]
    train_minutes: float | None
    """None = the recipe's own length."""
    distance: str
    """Name of the Frechet distance."""
    features: str
    data_source: str
    data_labels: list[Any] | None
    reference_split: str
    reference_images: int
    num_seeds: int
    """Sampling seeds."""
    runs: list[TrainingFacts]
    cells: list[SweepRow]
    notes: list[str]
    losses: str
    """Path of the picture of the loss curves."""
    figures: list[str]
    """Paths of the other pictures."""
    command: str

    @property
    def means(self) -> list[SweepRow]:
        """`cells` as means over the training seeds; empty = there is one training seed."""
        return means_over_trainings(self.cells) if len(self.train_seeds) > 1 else []

    def to_json(self) -> str:
        """The text of comparison.json, without the paths of this machine."""
        # The values of single sampling seeds are in the file of each cell; recipes have no axis of checkpoints or averages.
        hidden = ("values", "checkpoint", "sigma_rel")
        facts = asdict(self, dict_factory=lambda items: {name: value for name, value in items if name not in hidden})
        return json.dumps(without_paths(facts), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ComparisonFacts:
        """Read the text of a comparison.json; ValueError: it is damaged, or not a comparison."""
        try:
            found = parse_json(text)
            found["runs"] = [TrainingFacts(**run) for run in found["runs"]]
            found["cells"] = [SweepRow(**_with_metrics(cell)) for cell in found["cells"]]
            found.pop("means", None)  # which earlier versions kept
            return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a comparison.json written by hf-ddpm sweep") from error


def _with_metrics(found: Mapping[str, Any]) -> dict[str, Any]:
    def values(kind: type[MetricValue], metrics: Mapping[str, Any]) -> dict[str, MetricValue]:
        return {name: kind(**value, values=[]) for name, value in metrics.items()}

    parts = dict(found, metrics=values(MetricValue, found["metrics"]))
    if (interval := found.get("guidance_interval")) is not None:
        parts["guidance_interval"] = tuple(interval)
    if "per_class" in found:
        parts["per_class"] = {label: values(ClassMetricValue, metrics) for label, metrics in found["per_class"].items()}
    return parts
