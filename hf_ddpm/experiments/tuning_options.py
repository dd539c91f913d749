"""Options of hf-ddpm tune-guidance, and the candidates that they name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from hf_ddpm.config import require
from hf_ddpm.evaluation.options import MeasurementConfig, ReferenceDataConfig, SamplingConfig
from hf_ddpm.experiments.options import SAMPLING_AXES, GridPoint, SamplingGrid, SweepConfig, SweepGrid, point_name

EVERYWHERE = (0.0, 1.0)
USUAL: Mapping[str, list[Any]] = {
    "scheduler": ["dpmsolver++"],
    "num_inference_steps": [10, 15, 25],
    "guidance_scale": [1.0, 1.25, 1.5, 2.0, 3.0],
    "guidance": [None],
    "guidance_interval": [EVERYWHERE, (0.2, 0.8)],
}
"""Values of the axes that are not given: 27 candidates for a model that can be guided."""
UNGUIDED = {"guidance_scale": [None], "guidance": [None], "guidance_interval": [None]}
"""Those of a model that cannot."""
BEFORE = "defaults"
"""Name of the candidate that is sampled as the model is by default."""


@dataclass(kw_only=True)
class TuningGrid(SamplingGrid):
    """Candidates: every combination of these lists of values, and the present defaults of the model."""

    scheduler: list[str] | None = None
    """Schedulers, see hf-ddpm sample; None = dpmsolver++."""
    num_inference_steps: list[int] | None = None
    """Denoising steps; None = 10, 15 and 25."""
    guidance_scale: list[float] | None = None
    """s in u + s (c - u), 1 = no guidance; None = 1, 1.25, 1.5, 2 and 3."""
    guidance: list[Literal["cfg", "apg", "cfg_zero_star", "autoguidance"]] | None = None
    """How the output is guided, see hf-ddpm sample; None = as saved with the model, or autoguidance if there is a guide,
    else cfg."""
    guidance_interval: list[tuple[float, float]] | None = None
    """Intervals in which guidance acts, low <= t / T < high; None = [0, 1], which is everywhere, and [0.2, 0.8]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in self.guidance_interval or ():
            self.require(0 <= low < high <= 1, "guidance_interval", "give [low, high] with 0 <= low < high <= 1")


@dataclass(kw_only=True)
class TuneConfig(MeasurementConfig):
    """Find how a model samples best, and save that as its defaults."""

    main_options: ClassVar[tuple[str, ...]] = (
        "model", "output_dir", "features", "heldout_features", "num_images", "num_seeds", "min_recall", "write_defaults",
        "grid.num_inference_steps", "grid.guidance_scale", "grid.guidance_interval",
    )  # fmt: skip
    model: str
    """Folder of a pipeline, or with --write_defaults never also its id on the Hub."""
    output_dir: Path
    """Folder of the results: a new one, or that of the same command, which is then continued."""
    heldout_features: str
    """Features of another judge, in which the chosen candidate and the present defaults are measured at the end, on the
    split that is not `reference_split`."""
    min_recall: float | None = None
    """Least recall of the chosen candidate in the last round; None = any. In rounds of fewer images it is scaled down
    like the recall of real images."""
    write_defaults: Literal["gain", "always", "never"] = "gain"
    """Save the chosen candidate as the defaults of the model, and in its card: `gain` = if it is better in the end, or as
    good in fewer network calls."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network."""
    batch_size: int = 100
    """Images per batch; does not change the images."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    num_threads: int | None = None
    """CPU threads of a process; None = as many as are worth it, which the first calls of the network show."""
    data: ReferenceDataConfig = field(default_factory=ReferenceDataConfig)
    grid: TuningGrid = field(default_factory=TuningGrid)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(str(self.output_dir) not in ("", "."), "output_dir", "give a folder for the results")
        self.require(self.num_seeds >= 2, "num_seeds", "give at least 2, from which standard errors are estimated")
        self.require_positive("num_threads", "threads")
        self.require(self.batch_size >= 1, "batch_size", "give at least 1")
        self.require(self.min_recall is None or 0 <= self.min_recall <= 1, "min_recall", "give a number from 0 to 1")
        remedy = "candidates were chosen in these, give others, such as those of another judge"
        self.require(self.heldout_features != self.features, "heldout_features", remedy)
        has_use = self.inception_weights is None or "inception" in (self.features, self.heldout_features)
        self.require(has_use, "inception_weights", "no features are of Inception, leave it out")

    @property
    def heldout_split(self) -> str:
        """The split that is not the one of the rounds."""
        return "test" if self.reference_split == "train" else "train"

    def candidates(self, *, can_be_guided: bool) -> list[GridPoint]:
        """The present defaults of the model, then every combination of the lists, each way to sample once."""
        given = self.grid.axes()
        values = {axis: given.get(axis, (USUAL if can_be_guided else {**USUAL, **UNGUIDED})[axis]) for axis in SAMPLING_AXES}
        found = {}
        for combination in itertools.product(*values.values()):
            setting = dict(zip(SAMPLING_AXES, combination, strict=True))
            if setting["guidance_scale"] == 1:
                setting |= {"guidance": None, "guidance_interval": EVERYWHERE}
            shown = {axis: value for axis, value in setting.items() if value != EVERYWHERE}
            name = point_name(shown)
            found[name] = GridPoint(name=name, model=self.model, num_images=self.num_images, **setting)
        return [GridPoint(name=BEFORE, model=self.model, num_images=self.num_images), *found.values()]

    def measurement(
        self, folder: Path, *, features: str, reference_split: str, num_images: int, first_seed: int
    ) -> SweepConfig:
        """The options of a sweep that measures some candidates."""
        shared = {option.name: getattr(self, option.name) for option in fields(MeasurementConfig)}
        shared |= {"features": features, "reference_split": reference_split, "num_images": num_images, "seed": first_seed}
        shared["inception_weights"] = self.inception_weights if features == "inception" else None
        return SweepConfig(
            **shared,
            output_dir=folder,
            model=self.model,
            device=self.device,
            num_threads=self.num_threads,
            data=self.data,
            sampling=SamplingConfig(dtype=self.dtype, batch_size=self.batch_size),
            grid=SweepGrid(num_inference_steps=USUAL["num_inference_steps"]),  # the points are given one by one
        )

    def check_guided(self, *, can_be_guided: bool, why: str) -> None:
        """Refuse guidance of a model that has nothing to guide away from."""
        for axis in UNGUIDED:
            value = getattr(self.grid, axis)
            require(can_be_guided or value is None, f"grid.{axis}", value, f"the model {why}, leave it out: steps are tuned")
