"""What a sweep can be told, and the cells of its grid: `for cell in config.cells(): ...`."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_ddpm.cli import load_recipe
from hf_ddpm.config import require
from hf_ddpm.evaluation.options import MAX_IMAGES, ProtocolConfig, ReferenceDataConfig, SamplingConfig

NOISE, ALL = "noise", "all"
# Options of the training programs that the sweep itself gives.
GIVEN_TO_TRAINING = ("output_dir", "seed", "resume")
LENGTH = ("max_train_steps", "num_train_epochs")
# Options that train_gan.py has and train.py has not: a recipe with one of them is of a GAN.
GAN_OPTIONS = {
    "model": {"latent_dim", "generator_width", "discriminator_width", "label_channels", "wide_early"},
    "objective": {"real_target", "fake_target", "input_noise"},
}


@dataclass(kw_only=True)
class GridConfig:
    """The axes: lists of values, of which every combination is measured; None = not an axis."""

    recipe: list[Path] | None = None
    """Recipes of train.py, or of train_gan.py; a model of each is trained first. A GAN takes no steps and no guidance: it is
    measured once, and has no value on the axes of these."""
    train_seed: list[int] | None = None
    """Seeds that each recipe is trained with; None = 0."""
    checkpoint: list[int | str] | None = None
    """Steps of checkpoints of the run that the model lies in; `all` = all that are there, `noise` = uniform noise in place
    of samples."""
    scheduler: list[str] | None = None
    """Values of sampling.scheduler, names as in sample.py."""
    num_inference_steps: list[int] | None = None
    """Values of sampling.num_inference_steps."""
    guidance_scale: list[float] | None = None
    """Values of sampling.guidance_scale, s."""
    num_images: list[int] | None = None
    """Values of num_images."""

    def __post_init__(self):
        for axis, values in self.axes().items():
            require(len(values) > 0, f"grid.{axis}", values, "give at least one value, or leave it out")
            double = [value for value, count in Counter(values).items() if count > 1]
            require(not double, f"grid.{axis}", values, f"{double[0] if double else None} stands there twice, give it once")
        for scale in self.guidance_scale or ():
            require(math.isfinite(scale), "grid.guidance_scale", self.guidance_scale, "give finite numbers")
        for steps in self.num_inference_steps or ():
            require(steps >= 1, "grid.num_inference_steps", self.num_inference_steps, "give numbers of at least 1")
        for count in self.num_images or ():
            require(2 <= count <= MAX_IMAGES, "grid.num_images", self.num_images, f"give numbers from 2 to {MAX_IMAGES}")
        for seed in self.train_seed or ():
            require(0 <= seed < 2**32, "grid.train_seed", self.train_seed, "give whole numbers from 0 to 4294967295")
        self._check_checkpoints()

    def axes(self) -> dict[str, list]:
        """The axes that are given, by name."""
        return {axis.name: getattr(self, axis.name) for axis in fields(self) if getattr(self, axis.name) is not None}

    def _check_checkpoints(self) -> None:
        steps = [value for value in self.checkpoint or () if value not in (ALL, NOISE)]
        are_steps = all(isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in steps)
        require(are_steps, "grid.checkpoint", self.checkpoint, f"give steps (numbers), {ALL} or {NOISE}")
        only_all = not steps or ALL not in (self.checkpoint or ())
        require(only_all, "grid.checkpoint", self.checkpoint, f"{ALL} has every step already, leave the numbers out")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A model that the sweep has trained."""

    recipe: Path
    seed: int
    folder: Path  # of the run
    is_gan: bool = False  # whether train_gan.py trains it

    @property
    def model(self) -> str:
        """Folder of its pipeline."""
        return str(self.folder / "pipeline")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination of the grid; what noise or a GAN does not depend on is None there."""

    name: str  # of its file
    model: str  # folder or id of the pipeline
    recipe: str | None = None  # name of the recipe; None = not an axis
    train_seed: int | None = None
    is_gan: bool = False
    checkpoint: int | str | None = None  # step, or `noise`; None = not an axis
    scheduler: str | None = None  # None = the saved one
    num_inference_steps: int | None = None
    guidance_scale: float | None = None  # None = the default of the model
    num_images: int

    @property
    def is_noise(self) -> bool:
        return self.checkpoint == NOISE


@dataclass(kw_only=True)
class SweepConfig(ProtocolConfig):
    """Measure samples at every point of a grid of options."""

    output_dir: Path
    """Folder of the results, new or of the same sweep, which then goes on where it was stopped."""
    model: str | None = None
    """Folder of a pipeline, or its id on the Hub; None = models are trained, see grid.recipe."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps, ...; None = cuda if there is one, else cpu."""
    num_threads: int | None = None
    """CPU threads of a process; None = the machine's cores shared among its processes."""
    train_overrides: dict[str, Any] | None = None
    """Options of train.py (and train_gan.py) over those of every recipe, such as {max_train_steps: 100}; None = none."""
    train_minutes: float | None = None
    """Train each recipe for as many optimizer steps as it makes in so many minutes, in place of its own length: found by
    timing some steps on this machine beforehand. Another machine, or a busy one, makes another number of steps. Sample
    grids and checkpoints come on top. None = the recipe's length."""
    data: ReferenceDataConfig = field(default_factory=ReferenceDataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    grid: GridConfig = field(default_factory=GridConfig)

    def __post_init__(self):
        super().__post_init__()
        grid, axes = self.grid, self.grid.axes()
        require(bool(axes), "grid", None, f"give an axis, one of {', '.join(axis.name for axis in fields(grid))}")
        require(str(self.output_dir) not in ("", "."), "output_dir", str(self.output_dir), "name a folder of its own")
        if grid.recipe is None:
            require(self.model is not None, "model", None, "give a pipeline, or recipes with --grid.recipe")
            for option in ("grid.train_seed", "train_overrides", "train_minutes"):
                value = grid.train_seed if option.startswith("grid") else getattr(self, option)
                require(value is None, option, value, "only models of --grid.recipe are trained, leave it out")
        else:
            self._check_recipes()
        for axis, group in (("num_images", ""), *((name, "sampling.") for name in SAMPLING_AXES)):
            owner = self.sampling if group else self
            value, default = getattr(owner, axis), type(owner).__dataclass_fields__[axis].default
            remedy = f"leave it out, --grid.{axis} gives its values"
            require(axis not in axes or value == default, f"{group}{axis}", value, remedy)

    def runs(self) -> list[TrainedRun]:
        """The models that are trained first, in the order of the axes."""
        pairs = itertools.product(self.grid.recipe or (), self.grid.train_seed or (0,))
        folder = Path(self.output_dir) / "runs"
        return [
            TrainedRun(
                recipe=Path(recipe),
                seed=seed,
                folder=folder / f"{_safe(Path(recipe).stem)}-seed-{seed}",
                is_gan=trains_a_gan(recipe),
            )
            for recipe, seed in pairs
        ]

    def cells(self) -> list[Cell]:
        """Every cell, those of one model after each other; noise comes last, once for each number of images."""
        grid, cells = self.grid, []
        counts = grid.num_images or [self.num_images]
        axes = [getattr(grid, axis) or [getattr(self.sampling, axis)] for axis in SAMPLING_AXES]
        for origin in self._origins():
            is_single = origin.get("checkpoint") == NOISE or origin.get("is_gan", False)
            for values in [(None,) * len(axes)] if is_single else itertools.product(*axes):
                for count in counts:
                    options = {**origin, **dict(zip(SAMPLING_AXES, values, strict=True)), "num_images": count}
                    cells.append(Cell(name=_name({axis: options.get(axis) for axis in grid.axes()}), **options))
        return cells

    def _origins(self) -> list[dict[str, Any]]:
        """Where the images of a cell come from: the model, and its values on the axes that say so."""
        if self.grid.recipe is not None:
            return [
                {"model": run.model, "recipe": run.recipe.stem, "train_seed": run.seed, "is_gan": run.is_gan}
                for run in self.runs()
            ]
        if self.grid.checkpoint is None:
            return [{"model": self.model}]
        folder = checkpoints_folder(self.model)
        steps = sorted(step for step in self.grid.checkpoint if step != NOISE)
        origins = [{"model": str(checkpoint_path(folder, step)), "checkpoint": step} for step in steps]
        return origins + [{"model": self.model, "checkpoint": NOISE} for _ in range(NOISE in self.grid.checkpoint)]

    def resolve_checkpoints(self) -> None:
        """Put the steps that are there in the place of `all`.

        Raises:
            ValueError: the model lies in no run, or a checkpoint is not there.
        """
        wanted = self.grid.checkpoint
        if wanted is None or wanted == [NOISE]:
            return
        folder = checkpoints_folder(self.model)
        names = [] if folder is None else [path.parent.name for path in folder.glob("step-*/model_index.json")]
        there = sorted(int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdecimal())
        require(bool(there), "grid.checkpoint", wanted, f"--model {self.model} lies in no run that has checkpoints")
        missing = [step for step in wanted if step not in (ALL, NOISE, *there)]
        require(not missing, "grid.checkpoint", wanted, f"the run has the checkpoints {', '.join(map(str, there))}")
        steps = there if ALL in wanted else sorted(step for step in wanted if step != NOISE)
        self.grid.checkpoint = steps + [NOISE] * (NOISE in wanted)

    def _check_recipes(self) -> None:
        grid = self.grid
        require(self.model is None, "model", self.model, "leave it out, or leave --grid.recipe out")
        remedy = "it is of the run of --model, and cannot go together with --grid.recipe"
        require(grid.checkpoint is None, "grid.checkpoint", grid.checkpoint, remedy)
        recipes = [str(recipe) for recipe in grid.recipe]
        for recipe in grid.recipe:
            require(Path(recipe).is_file(), "grid.recipe", str(recipe), "there is no such file")
        stems = {_safe(Path(recipe).stem) for recipe in recipes}
        require(len(stems) == len(recipes), "grid.recipe", recipes, "two have one name, under which both would be saved")
        for option in GIVEN_TO_TRAINING:
            value = (self.train_overrides or {}).get(option)
            require(value is None, f"train_overrides.{option}", value, "the sweep gives it, leave it out")
        if all(trains_a_gan(recipe) for recipe in grid.recipe):
            for option in (*(f"grid.{axis}" for axis in SAMPLING_AXES), "bits_per_dim_images"):
                value = getattr(grid if "." in option else self, option.removeprefix("grid."))
                require(value is None, option, value, "no recipe but of GANs, which have neither steps nor likelihood")
        self._check_train_minutes()

    def _check_train_minutes(self) -> None:
        minutes = self.train_minutes
        if minutes is not None:
            require(0 < minutes < math.inf, "train_minutes", minutes, "give a number of minutes above 0")
            for option in LENGTH:
                value = (self.train_overrides or {}).get(option)
                require(value is None, f"train_overrides.{option}", value, "--train_minutes says how long, leave it out")


SAMPLING_AXES = ("scheduler", "num_inference_steps", "guidance_scale")


def trains_a_gan(recipe: Path) -> bool:
    """Whether a recipe is one of train_gan.py: it, or what it extends, has an option which only that program has, or its
    header comment names that program first.

    Raises:
        ValueError: it cannot be read.
    """
    options = load_recipe(recipe)
    for group, names in GAN_OPTIONS.items():
        if isinstance(options.get(group), dict) and names & options[group].keys():
            return True
    header = itertools.takewhile(lambda line: line.startswith("#"), Path(recipe).read_text(encoding="utf-8").splitlines())
    named = re.search(r"train_scripts/(\w+)\.py", "\n".join(header))
    return named is not None and named[1] == "train_gan"


def checkpoints_folder(model: str) -> Path | None:
    """The folder of checkpoints of the run that a pipeline lies in, as its `pipeline` or one of them; None = none."""
    path = Path(model)
    found = (folder / "checkpoints" for folder in (path.parent, path.parent.parent))
    return next((folder for folder in found if folder.is_dir()), None) if path.is_dir() else None


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step lies."""
    return folder / f"step-{step:08d}"


_SHORT = {
    "num_inference_steps": "steps",
    "guidance_scale": "s",
    "num_images": "n",
    "train_seed": "seed",
    "checkpoint": "step",
}


def _name(values: dict[str, Any]) -> str:
    """Name of a cell from its values on the axes, as `ddim_steps-20_s-1.5`."""
    parts = []
    for axis, value in values.items():
        if value is not None:
            text = repr(value).removesuffix(".0") if isinstance(value, float) else _safe(str(value))
            parts.append(f"{_SHORT[axis]}-{text}" if axis in _SHORT and value != NOISE else text)
    return "_".join(parts)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)
