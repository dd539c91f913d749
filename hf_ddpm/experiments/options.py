"""Options of a sweep, and the points of its grid: `for point in config.points(): ...`."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from hf_ddpm.cli import parse_config, recipe_program
from hf_ddpm.commandline.recipes import find_recipe, missing_recipe_hint
from hf_ddpm.config import BaseConfig, require, require_seeds
from hf_ddpm.evaluation.options import MAX_IMAGES, ProtocolConfig, ReferenceDataConfig, SamplingConfig
from hf_ddpm.run_folder import RunFolder, find_name_fault
from hf_ddpm.training.options import GANConfig, TrainConfig

NOISE, ALL = "noise", "all"
SAMPLING_AXES = ("scheduler", "num_inference_steps", "guidance_scale", "guidance", "guidance_interval")
SHORT_NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "s",
    "guidance_interval": "interval",
    "num_images": "n",
    "train_seed": "seed",
    "checkpoint": "step",
    "sigma_rel": "sigma_rel",
}
"""Names of axes before their values; other axes show the value alone."""
PROGRAMS: dict[str, type[TrainConfig] | type[GANConfig]] = {kind.program: kind for kind in (TrainConfig, GANConfig)}
"""Options classes of the programs whose recipes a sweep can train, by name."""


@dataclass(kw_only=True)
class Grid(BaseConfig, group="grid"):
    """Axes of a grid: lists of values; every combination is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis, values in self.axes().items():
            self.require(len(values) > 0, axis, "give at least one value, or leave it out")
            twice = [value for value, count in Counter(values).items() if count > 1]
            self.require(not twice, axis, f"{', '.join(map(str, twice))} is listed twice, give it once")

    def axes(self) -> dict[str, list[Any]]:
        """The axes that are given, by name."""
        return {axis.name: getattr(self, axis.name) for axis in fields(self) if getattr(self, axis.name) is not None}


@dataclass(kw_only=True)
class SamplingGrid(Grid):
    """How samples are generated. None = not an axis."""

    scheduler: list[str] | None = None
    """Values of sampling.scheduler."""
    num_inference_steps: list[int] | None = None
    """Values of sampling.num_inference_steps."""
    guidance_scale: list[float] | None = None
    """Values of sampling.guidance_scale, s."""
    guidance: list[Literal["cfg", "apg", "cfg_zero_star", "autoguidance"]] | None = None
    """Values of sampling.guidance."""
    guidance_interval: list[tuple[float, float]] | None = None
    """Values of sampling.guidance_interval; [0, 1] = everywhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(all(map(math.isfinite, self.guidance_scale or ())), "guidance_scale", "give finite numbers")
        self.require(min(self.num_inference_steps or [1]) >= 1, "num_inference_steps", "give numbers of at least 1")


@dataclass(kw_only=True)
class ModelGrid(Grid):
    """Which models are measured. None = not an axis."""

    recipe: list[Path] | None = None
    """Recipes of diffusion models or GANs, by name or file; a model of each is trained first. A GAN has neither steps nor
    guidance: it is measured once, without a value on these axes."""
    train_seed: list[int] | None = None
    """Training seeds of each recipe; None = 0."""
    checkpoint: list[int | str] | None = None
    """Steps of checkpoints of the model's run; `all` = every checkpoint of the run, `noise` = uniform noise instead of
    samples."""
    sigma_rel: list[float] | None = None
    """Lengths of the average of the weights, see hf-ddpm average, up to the newest snapshot of the model's run; each average
    is kept as a pipeline in the folder `averages` of the run."""


@dataclass(kw_only=True)
class SweepGrid(SamplingGrid, ModelGrid):
    """Axes of the grid: lists of values; every combination is measured. None = not an axis."""

    num_images: list[int] | None = None
    """Values of num_images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        counts, seeds = self.num_images or (), self.train_seed or ()
        both = self.sigma_rel is not None and self.checkpoint is not None
        self.require(not both, "sigma_rel", "averages end at the newest snapshot, leave --grid.checkpoint out")
        self.require(all(2 <= count <= MAX_IMAGES for count in counts), "num_images", f"give numbers from 2 to {MAX_IMAGES}")
        require_seeds(f"{self._prefix}train_seed", *seeds)
        checkpoints = self.checkpoint or ()
        steps = [value for value in checkpoints if value not in (ALL, NOISE)]
        are_steps = all(isinstance(step, int) and step >= 0 for step in steps)
        self.require(are_steps, "checkpoint", f"give steps (numbers), {ALL} or {NOISE}")
        self.require(not (steps and ALL in checkpoints), "checkpoint", f"{ALL} includes every step, leave the numbers out")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A model that the sweep trains."""

    recipe: Path
    program: str
    """Name in PROGRAMS."""
    seed: int
    folder: RunFolder

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.folder.path.name

    @property
    def is_gan(self) -> bool:
        return self.program == GANConfig.program

    @property
    def own_options(self) -> dict[str, Any]:
        """Options of the training that the sweep sets itself; an interrupted training is resumed."""
        options = {"output_dir": str(self.folder.path), "seed": self.seed, "resume": "auto"}
        if not self.is_gan:  # the sweep evaluates after all trainings
            options |= {"evaluation.every_steps": None, "evaluation.features": None}
        return options


Trainings = dict[TrainedRun, TrainConfig | GANConfig]


@dataclass(frozen=True, kw_only=True)
class GridPoint:
    """One combination of the grid; options that noise or a GAN does not depend on are None."""

    name: str
    """Name of its file of results, without the ending."""
    model: str
    """Folder or Hub id of the pipeline."""
    recipe: str | None = None
    """Here and in the next two: None = not an axis."""
    train_seed: int | None = None
    checkpoint: int | str | None = None
    """Step, or `noise`."""
    sigma_rel: float | None = None
    """Length of the average; None = not an axis."""
    is_gan: bool = False
    scheduler: str | None = None
    """None = the saved one."""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    """None = the default of the model."""
    guidance: str | None = None
    guidance_interval: tuple[float, float] | None = None
    num_images: int
    """Images of each sampling seed."""

    @property
    def is_noise(self) -> bool:
        return self.checkpoint == NOISE


@dataclass(kw_only=True)
class SweepConfig(ProtocolConfig):
    """Measure samples at every point of a grid of options."""

    main_options: ClassVar[tuple[str, ...]] = (
        "output_dir", "model", "features", "num_images", "num_seeds", "grid.recipe", "grid.train_seed", "grid.checkpoint",
        "grid.scheduler", "grid.num_inference_steps", "grid.guidance_scale", "train_overrides",
    )  # fmt: skip
    output_dir: Path
    """Folder of the results: a new one, or that of the same sweep, which is then continued."""
    model: str | None = None
    """Folder of a pipeline, or its id on the Hub; None = models are trained from grid.recipe."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    num_threads: int | None = None
    """CPU threads of a process; None = as many as are worth it, which the first calls of each network show."""
    train_overrides: dict[str, Any] | None = None
    """Training options that override those of every recipe, such as {max_train_steps: 100}; None = none."""
    train_minutes: float | None = None
    """Train each recipe for the number of optimizer steps that fit into this many minutes, instead of its own length. Some
    steps are timed first, so the number depends on the machine and its load. Sample grids and checkpoints are not included.
    None = the recipe's length."""
    data: ReferenceDataConfig = field(default_factory=ReferenceDataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    grid: SweepGrid = field(default_factory=SweepGrid)

    def __post_init__(self) -> None:
        super().__post_init__()
        grid, axes = self.grid, self.grid.axes()
        require(bool(axes), "grid", None, f"give an axis, one of {', '.join(axis.name for axis in fields(grid))}")
        self.require(str(self.output_dir) not in ("", "."), "output_dir", "give a folder for the sweep")
        self.require_positive("num_threads", "threads")
        automatic = self.sampling.dtype == "auto"
        require(not automatic, "sampling.dtype", "auto", "all points are measured alike, give float32 or bfloat16")
        if grid.recipe is None:
            self.require(self.model is not None, "model", "give a pipeline, or recipes with --grid.recipe")
            remedy = "it applies to --grid.recipe alone, leave it out"
            grid.require(grid.train_seed is None, "train_seed", remedy)
            self.require(self.train_overrides is None, "train_overrides", remedy)
            self.require(self.train_minutes is None, "train_minutes", remedy)
        else:
            self._check_recipes(grid.recipe)
        for owner, axis in ((self, "num_images"), *((self.sampling, axis) for axis in SAMPLING_AXES)):
            is_default = getattr(owner, axis) == type(owner).__dataclass_fields__[axis].default
            owner.require(axis not in axes or is_default, axis, f"leave it out, --grid.{axis} gives the values")

    def runs(self) -> list[TrainedRun]:
        """The models that are trained first, in the order of the axes."""
        runs = []
        for recipe, seed in itertools.product(self.grid.recipe or (), self.grid.train_seed or (0,)):
            program = recipe_program(recipe) or TrainConfig.program
            folder = RunFolder(Path(self.output_dir) / "runs" / f"{_safe(Path(recipe).stem)}-seed-{seed}")
            runs.append(TrainedRun(recipe=Path(recipe), program=program, seed=seed, folder=folder))
        return runs

    def trainings(self) -> Trainings:
        """Options of the training of each of `runs()`; a mistake in them exits with 2, see `parse_config`."""
        trainings = {}
        for run in self.runs():
            options = flat_options(self.train_overrides or {}) | run.own_options
            arguments = [f"--{name}={it if isinstance(it, str) else json.dumps(it)}" for name, it in options.items()]
            trainings[run] = parse_config(PROGRAMS[run.program], ["--config", str(run.recipe), *arguments])
        return trainings

    def points(self) -> list[GridPoint]:
        """All points, grouped by model; noise comes last, once for each number of images."""
        counts = self.grid.num_images or [self.num_images]
        axes = [getattr(self.grid, axis) or [getattr(self.sampling, axis)] for axis in SAMPLING_AXES]
        settings = [dict(zip(SAMPLING_AXES, values, strict=True)) for values in itertools.product(*axes)]
        points = []
        for origin in self._origins():
            is_single = origin.get("checkpoint") == NOISE or origin.get("is_gan", False)
            for setting, count in itertools.product([{}] if is_single else settings, counts):
                values = {**origin, **setting, "num_images": count}
                points.append(GridPoint(name=point_name({axis: values.get(axis) for axis in self.grid.axes()}), **values))
        return points

    def _origins(self) -> list[dict[str, Any]]:
        """Sources of images: the model and its values on the axes of recipes and checkpoints."""
        if self.grid.recipe is not None:
            models = {str(run.folder.pipeline): run for run in self.runs()}
            return [
                {"model": model, "recipe": run.recipe.stem, "train_seed": run.seed, "is_gan": run.is_gan}
                for model, run in models.items()
            ]
        if self.grid.sigma_rel is not None:
            run = self.run_of_averages()
            return [{"model": str(run.average(length)), "sigma_rel": length} for length in self.grid.sigma_rel]
        if self.grid.checkpoint is None:
            return [{"model": self.model}]
        saved = self._checkpoints().items()
        origins = [{"model": str(path), "checkpoint": step} for step, path in saved if step in self.grid.checkpoint]
        if NOISE in self.grid.checkpoint:
            origins.append({"model": self.model, "checkpoint": NOISE})
        return origins

    def run_of_averages(self) -> RunFolder:
        """The run whose weights are averaged; ValueError: the model belongs to none."""
        run = RunFolder.of(self.model or "")
        if run is None:
            raise ValueError(f"--grid.sigma_rel: --model {self.model} belongs to no run that has kept snapshots of averages")
        return run

    def resolve_checkpoints(self) -> None:
        """Replace `all` by all steps; ValueError: the model belongs to no run, or a checkpoint does not exist."""
        wanted = self.grid.checkpoint
        if wanted is None or wanted == [NOISE]:
            return
        there = list(self._checkpoints())
        self.grid.require(bool(there), "checkpoint", f"--model {self.model} belongs to no run with checkpoints")
        missing = [step for step in wanted if step not in (ALL, NOISE, *there)]
        self.grid.require(not missing, "checkpoint", f"the run has the checkpoints {', '.join(map(str, there))}")
        steps: list[int | str] = [step for step in there if ALL in wanted or step in wanted]
        for step, path in self._checkpoints().items():
            fault = find_name_fault(path) if step in steps else None
            self.grid.require(fault is None, "checkpoint", f"{path}: {fault}")
        self.grid.checkpoint = [*steps, NOISE] if NOISE in wanted else steps

    def _checkpoints(self) -> dict[int, Path]:
        """Checkpoints of the model's run, by step, oldest first."""
        run = RunFolder.of(self.model or "")
        return {} if run is None else run.checkpoints()

    def _check_recipes(self, recipes: list[Path]) -> None:
        grid, overrides = self.grid, flat_options(self.train_overrides or {})
        self.require(self.model is None, "model", "leave it out, or leave --grid.recipe out")
        for axis in ("checkpoint", "sigma_rel"):
            remedy = "it is about the run of --model, leave it out with --grid.recipe"
            grid.require(getattr(grid, axis) is None, axis, remedy)
        for recipe in recipes:
            remedy = f"the file does not exist, {missing_recipe_hint(recipe)}"
            require(find_recipe(recipe).is_file(), "grid.recipe", str(recipe), remedy)
        stems = {_safe(Path(recipe).stem) for recipe in recipes}
        remedy = "two have the same name and would be saved in the same folder, rename one"
        require(len(stems) == len(recipes), "grid.recipe", [str(recipe) for recipe in recipes], remedy)
        runs = self.runs()
        for run in runs:
            remedy = f"it is a recipe of {run.program}, give recipes of {' or '.join(PROGRAMS)}"
            require(run.program in PROGRAMS, "grid.recipe", str(run.recipe), remedy)
        own = {name: "the sweep sets it" for run in runs for name in run.own_options}
        if self.train_minutes is not None:
            self.require_positive("train_minutes", "minutes")
            own |= dict.fromkeys(("max_train_steps", "num_train_epochs"), "--train_minutes sets the length")
        for option, why in own.items():
            value = overrides.get(option)
            require(value is None, f"train_overrides.{option}", value, f"{why}, leave it out")
        if all(run.is_gan for run in runs):
            remedy = "all recipes are of GANs, which have neither sampling steps nor a likelihood, leave it out"
            for axis in SAMPLING_AXES:
                grid.require(getattr(grid, axis) is None, axis, remedy)
            self.require(self.bits_per_dim_images is None, "bits_per_dim_images", remedy)


def flat_options(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by their names on the command line, such as `data.batch_size`."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= flat_options(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def point_name(values: Mapping[str, Any]) -> str:
    """Name of a point from its values on the axes, as `ddim_steps-20_s-1.5`."""
    parts = []
    for axis, value in values.items():
        if value is not None:
            numbers = value if isinstance(value, tuple) else (value,) if isinstance(value, float) else ()
            text = "-".join(repr(float(number)).removesuffix(".0") for number in numbers) or _safe(str(value))
            parts.append(f"{SHORT_NAMES[axis]}-{text}" if axis in SHORT_NAMES and value != NOISE else text)
    return "_".join(parts)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)
