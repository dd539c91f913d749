"""Facts about a model, read from its saved pipeline and run folder without loading any weights."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from PIL import Image
from safetensors import SafetensorError, safe_open

from hf_ddpm.commandline.commands import read_start
from hf_ddpm.config import GIVEN_IN_PYTHON, Architecture
from hf_ddpm.data.description import DataDescription
from hf_ddpm.hub.defaults import read_defaults
from hf_ddpm.image_shape import PIL_IMAGES, size_text
from hf_ddpm.markdown import without_paths
from hf_ddpm.results import MetricValue, Results
from hf_ddpm.run_folder import GridSettings, RunFolder
from hf_ddpm.runtime.reading import read_json
from hf_ddpm.text import one_line
from hf_ddpm.tuning_results import FILE as TUNING
from hf_ddpm.tuning_results import Tuning

HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
MAX_CLASSES_SHOWN = 100
PRIVATE_OPTIONS = ("output_dir", "resume", "num_threads", "hub")
"""Options of the machine or the user rather than the model."""
LOCAL_SOURCE = "path/to/images"
"""Placeholder for the source of local images in a published recipe."""
MAX_REASON = 300
"""Characters of the reason why something is left out."""

NARROW_TYPES = {"F16": "float16", "BF16": "bfloat16"}
"""Types of 16 bits by their names in safetensors."""

SourceKind = Literal["digits", "hub", "local", "python"]
Part = TypeVar("Part")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PipelineFacts:
    """A folder written by `save_pretrained`."""

    class_name: str
    """Class of the pipeline, as model_index.json names it."""
    components: list[str]
    """Names of its components, which are their folders."""
    scheduler: dict[str, Any]
    """Config of the scheduler; empty = the pipeline has none."""
    unet: dict[str, Any]
    """Config of the U-Net; empty = the pipeline has none, or one with another interface than UNet2DModel."""
    parameters: int | None
    """Number of parameters of the U-Net; None = its weights are not there as safetensors."""
    stored_dtype: str | None
    """Type of the weights of the U-Net in their files, such as float16; None = float32, several, or they are not there."""
    id2label: dict[int, str]
    """Class id to class name; empty = no names."""
    null_label: int | None
    """Label that means no class; None = the model has none."""
    pixel_type: str
    """Type of the values of the images."""
    value_range: dict[str, float] | None
    """The values that are -1 and 1 in the network, `low` and `high`; None = 0 and 255, of uint8."""
    own_steps: int | None
    """Denoising steps of a distilled model; None = it is not one."""
    own_scale: float | None
    """Guidance scale that is built in to a distilled model; None = none is."""
    sampling_defaults: dict[str, Any]
    """Saved values for options of a call that are not given; empty = none."""
    has_code: bool
    """Whether the folder contains pipeline.py."""
    names_code: bool
    """Whether model_index.json names it too, as diffusers wants it; older models do not."""
    variant: str | None
    """The variant of the U-Net's only weights, such as fp16; None = they have none, or are not the only ones."""
    network_code: str | None
    """Where the network's code belongs, such as unet/class_map_unet.py; None = it is part of diffusers."""
    network_module: str | None
    """Module of a network whose code is not there; None = it is, or part of diffusers."""

    @property
    def is_ours(self) -> bool:
        return self.class_name == "CFGDDPMPipeline"

    @property
    def needs_trust(self) -> bool:
        """Whether this package runs code of the folder to load the network, which is a class of a user."""
        code = self.network_code
        return code is not None and self.network_module is None and Path(code).stem not in get_args(Architecture)

    @property
    def num_classes(self) -> int | None:
        """Classes without the null label; None = unconditional."""
        embeddings = self.unet.get("num_class_embeds")
        return None if embeddings is None else embeddings - (self.null_label is not None)

    @property
    def size(self) -> str:
        """Height and width in pixels, as `28 x 28`; of a pipeline with a U-Net."""
        return size_text(self.unet["sample_size"])

    @property
    def gives_arrays(self) -> bool:
        """Whether a call returns arrays, as PIL cannot hold the images."""
        return (self.pixel_type, self.unet["in_channels"]) not in PIL_IMAGES

    @property
    def condition(self) -> str | None:
        """`class`, `labels` or `number`, see `CFGDDPMPipeline`; None = unconditional."""
        if self.num_classes is None or "condition_range" not in self.unet:
            return None if self.num_classes is None else "class"
        return "labels" if self.unet["condition_range"] is None else "number"

    @property
    def example_labels(self) -> tuple[Any, Any]:
        """The first class, by name if the name is unique, and the last one by id; sets of labels, or numbers."""
        if self.condition == "number":
            low, high = self.unet["condition_range"]
            quarter = (high - low) / 4
            return float(f"{low + quarter:.3g}"), float(f"{high - quarter:.3g}")
        if self.condition == "labels":
            one, last = [self.id2label.get(0, 0)], (self.num_classes or 0) - 1
            return one, [*one, last] if last > 0 else []
        names = list(self.id2label.values())
        first = self.id2label.get(0)
        return 0 if first is None or names.count(first) > 1 else first, (self.num_classes or 0) - 1

    @property
    def shown_classes(self) -> dict[int, str]:
        return dict(list(self.id2label.items())[:MAX_CLASSES_SHOWN])

    def steps(self, usual: int) -> int:
        """The usual number of inference steps, at most the model's number of timesteps."""
        return min(usual, self.scheduler.get("num_train_timesteps", usual))


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """environment.json; None or empty = unknown."""

    gpu: str | None = None
    processor: str | None = None
    num_processes: int | None = None
    num_threads: int | None = None
    """Threads per process."""
    mixed_precision: str | None = None
    """The precision that was chosen where the options say `auto`."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Python and packages, by name."""
    commit: str | None = None
    """Git commit of hf_ddpm."""
    command: list[str] = field(default_factory=list)
    objects: dict[str, str] = field(default_factory=dict)
    """What the program that trained gave in Python beside the options: names by dataset, network, loss and callbacks."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The folder of a training run."""

    config: dict[str, Any]
    """config.yaml."""
    machine: MachineFacts
    log: list[dict[str, float]]
    """The finite numbers of each line of metrics.jsonl, oldest first."""
    results: dict[str, Results]
    """The finite metrics of results/NAME.json by NAME, without paths of the machine."""
    tunings: dict[str, Tuning]
    """What results/NAME/tuning.json says of how the model samples best, by NAME, without paths of the machine."""
    samples: tuple[int, Path] | None
    """Optimizer step and file of the newest grid of samples; None = there is none."""
    grid: GridSettings | None
    """How the grid was sampled; None = the run did not record it."""
    data: DataDescription | None
    """What the run learned from; None = the run did not record it."""
    source: str
    """`--data.source`."""
    source_kind: SourceKind
    base_model: str | None
    """Id on the Hub of the model whose weights the run started from; None = none, or one of this machine."""

    @property
    def base_folder(self) -> str | None:
        """Name of the folder of a model of this machine whose weights the run started from; None = there is none."""
        started_from = _started_from(self.config)
        return None if started_from is None or self.base_model is not None else str(without_paths(started_from))

    def option(self, group: str, name: str) -> Any:
        """An option of a group; None = off, or the run does not have it."""
        return (self.config.get(group) or {}).get(name)

    def given_options(self, group: str, names: tuple[str, ...]) -> dict[str, Any]:
        """The given options of a group except those that are None, with paths shortened."""
        options = {name: without_paths(self.option(group, name)) for name in names}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def data_options(self) -> dict[str, Any]:
        """How the images were read."""
        hidden = ("source", "batch_size", "shuffle_buffer")
        return self.given_options("data", tuple(name for name in self.config.get("data") or {} if name not in hidden))

    def last(self, name: str) -> dict[str, float] | None:
        """The last log line with this number; None = no line has it."""
        return next((line for line in reversed(self.log) if name in line), None)

    @property
    def num_images(self) -> int | None:
        """Number of training images, else images seen divided by epochs; None = unknown."""
        if self.data is not None and self.data.num_train_images is not None:
            return self.data.num_train_images
        line = self.last("epoch") or {}
        return round(line["images_seen"] / line["epoch"]) if line.get("epoch", 0) > 0 and "images_seen" in line else None

    @property
    def held_out(self) -> dict[str, dict[str, float]]:
        """The last log line of each held-out metric, by name."""
        names = sorted({name for line in self.log for name in line if name.startswith("test_")})
        return {name: line for name in names if (line := self.last(name))}

    @property
    def median_speed(self) -> int | None:
        """Median images per second; None = unknown."""
        speeds = sorted(line["images_per_second"] for line in self.log if "images_per_second" in line)
        return round(speeds[len(speeds) // 2]) if speeds else None

    @property
    def nearest(self) -> tuple[str, MetricValue, float] | None:
        """Distance of samples to training images: results file, value, value of real images; None = not measured."""
        metric = "nearest_train_distance"
        measured = ((name, it) for name, it in self.results.items() if metric in it.metrics and metric in it.floor)
        return next(((name, it.metrics[metric], it.floor[metric]) for name, it in measured), None)

    @property
    def measures_samples(self) -> bool:
        """Whether any result is about features of samples, as of an evaluation."""
        return any("features" in results.protocol for results in self.results.values())

    @property
    def command(self) -> str | None:
        """The recorded command line; None = another program called `train`."""
        start = read_start(self.machine.command or ())
        if start is None or start.name != self.program:
            return None
        command = start.command(self.program, self.machine.num_processes or 1)
        return f"{command} {shlex.join(without_paths(list(start.arguments)))}".rstrip()

    @property
    def program(self) -> str:
        """The command of hf-ddpm that trained the model."""
        return "train" if self.config.get("teacher") is None else "distill"

    @property
    def recipe(self) -> str:
        """The resolved options as YAML, without private ones and with paths shortened."""
        options = without_paths({name: value for name, value in self.config.items() if name not in PRIVATE_OPTIONS})
        if "data" in options:
            options["data"]["labels"] = self.option("data", "labels")  # class names may look like paths
            if self.source_kind == "local":
                options["data"]["source"] = LOCAL_SOURCE
        return yaml.safe_dump(options, sort_keys=False)


def _started_from(config: dict[str, Any]) -> Any:
    """The model of `--model.init_from`, or the teacher of a distillation; None = there is none."""
    return config.get("teacher") or (config.get("model") or {}).get("init_from")


def read_pipeline(folder: Path) -> PipelineFacts:
    """Read the JSON files and the headers of the weights of a saved pipeline; ValueError: it is not one, or is damaged."""
    if not (folder / "model_index.json").is_file():
        inner, remedy = RunFolder(folder).pipeline, "give a saved pipeline, a folder with model_index.json"
        if (inner / "model_index.json").is_file():
            remedy = f"this is a run directory, give {inner}"
        raise ValueError(f"--model is {str(folder)!r}: {remedy}")
    try:
        return _read_pipeline(folder)
    except (TypeError, AttributeError, LookupError) as error:  # a value of a kind that it never has
        raise ValueError(f"{folder} is damaged: its JSON files are not those of a saved pipeline") from error


def _read_pipeline(folder: Path) -> PipelineFacts:
    index = _read_json(folder / "model_index.json")
    unet = _read_config(folder / "unet" / "config.json")
    library = (index.get("unet") or ["diffusers"])[0]
    network_code = None if library == "diffusers" else f"unet/{library}.py"
    name = index.get("_class_name")
    parameters, stored_dtype = _read_weights(folder / "unet")
    components = [key for key, value in index.items() if key != "_class_name" and isinstance(value, list) and all(value)]
    if not all(component.isidentifier() for component in components):
        raise ValueError(f"{folder / 'model_index.json'} is damaged: the name of a component is not one")
    return PipelineFacts(
        class_name=str(name[-1] if isinstance(name, list) and name else name),  # [module, class] = a class of the repository
        components=components,
        scheduler=_read_config(folder / "scheduler" / "scheduler_config.json"),
        unet=unet if "sample_size" in unet and "cross_attention_dim" not in unet else {},
        parameters=parameters,
        stored_dtype=stored_dtype,
        id2label=dict(sorted((int(label), str(name)) for label, name in (index.get("id2label") or {}).items())),
        null_label=index.get("null_label"),
        pixel_type=str(index.get("pixel_type", "uint8")),
        value_range=index.get("value_range"),
        own_steps=index.get("default_num_inference_steps"),
        own_scale=index.get("built_in_guidance_scale"),
        sampling_defaults=read_defaults(index),
        has_code=(folder / "pipeline.py").is_file(),
        names_code=isinstance(name, list),
        variant=_variant(folder / "unet"),
        network_code=network_code,
        network_module=None if network_code is None or (folder / network_code).is_file() else str(library),
    )


def read_run(run: RunFolder, *, left_out_of: str = "the model card") -> RunFacts:
    """Read the files of a run folder; ValueError: config.yaml is damaged.

    What else is damaged is left out, and a warning says of what it is left out.
    """
    config = run.read_options()

    def part(path: Path, read: Callable[[Path], Part]) -> Part | None:
        return _part(path, read, left_out_of)

    results = {path: part(path, _read_results) for path in sorted(run.results.glob("*.json")) if path.name[0] != "."}
    tunings = {path: part(path, _read_tuning) for path in sorted(run.results.glob(f"*/{TUNING}"))}
    last = max(run.sample_grids().items(), default=None)
    picture = None if last is None else part(last[1], lambda path: check_picture(path, run.path))
    source = str((config.get("data") or {}).get("source", "digits"))
    base = str(_started_from(config) or "")
    return RunFacts(
        config=config,
        machine=part(run.environment, _read_machine) or MachineFacts(),
        log=part(run.metrics, lambda _: [_finite(line) for line in run.read_metrics()]) or [],
        results={path.stem: it for path, it in results.items() if it is not None},
        tunings={path.parent.name: it for path, it in tunings.items() if it is not None},
        samples=None if last is None or picture is None else (last[0], picture),
        grid=part(run.grid_settings, lambda _: run.read_grid_settings()),
        data=part(run.data, DataDescription.read),
        source=source,
        source_kind=source_kind(source, run.path),
        base_model=base if "/" in base and source_kind(base, run.path) == "hub" else None,
    )


def source_kind(source: str, run_dir: Path) -> SourceKind:
    """Where the images of `--data.source` came from: `digits` (embedded), `hub` (a data set id on the Hub), `python` (given
    by the program) or `local`.

    A relative path may begin in the working folder or any folder above the run, which may be published from another place.
    """
    if source == "digits":
        return "digits"
    if source == GIVEN_IN_PYTHON:
        return "python"
    roots = [Path.cwd(), *run_dir.resolve().parents]
    is_local = not HUB_ID.fullmatch(source) or any((root / source).exists() for root in roots)
    return "local" if is_local else "hub"


def _part(path: Path, read: Callable[[Path], Part], left_out_of: str) -> Part | None:
    """Read a file of the run; None = there is none, or it is damaged, as a warning says."""
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():  # a pipe would block
            raise ValueError(f"{path} is not a file")
        return read(path)
    except Exception as error:  # a file that anyone may have edited makes a reader raise anything
        is_clear = isinstance(error, ValueError | OSError)
        reason = one_line(error if is_clear else f"{path} is damaged ({type(error).__name__})", MAX_REASON)
        logger.warning("left out of %s: %s", left_out_of, reason if str(path) in reason else f"{path}, {reason}")
        return None


def _read_machine(path: Path) -> MachineFacts:
    environment = _read_json(path)
    texts = {name: environment.get(name) for name in ("gpu", "processor", "commit", "mixed_precision")}
    counts = {name: environment.get(name) for name in ("num_processes", "num_threads")}
    versions = {"python": environment.get("python"), **(environment.get("packages") or {})}
    kinds = ((texts, str), (counts, int), (versions, str))
    if not all(isinstance(value, kind | None) for values, kind in kinds for value in values.values()):
        raise ValueError(f"{path} is damaged: a text or a number is of another kind")
    return MachineFacts(
        **texts,
        **counts,
        versions={name: version for name, version in versions.items() if version},
        command=[str(argument) for argument in environment.get("command") or []],
        objects={str(name): str(which) for name, which in (environment.get("objects") or {}).items()},
    )


def check_picture(path: Path, run_dir: Path) -> Path:
    """The path of a picture; ValueError: it cannot be shown, or leads out of the run folder, so it may be private."""
    if not path.resolve().is_relative_to(run_dir.resolve()):
        raise ValueError(f"{path} is a link out of the run folder")
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is damaged: it is not a PNG") from error
    return path


def _read_results(path: Path) -> Results:
    results = Results.read(path)
    return replace(
        results,
        metrics={name: metric for name, metric in results.metrics.items() if math.isfinite(metric.mean)},
        floor=_finite(results.floor),
        ceiling=_finite(results.ceiling),
        protocol={name: without_paths(value) for name, value in results.protocol.items() if value is not None},
    )


def _read_tuning(path: Path) -> Tuning:
    tuning = Tuning.read(path)
    return replace(tuning, protocol=without_paths(tuning.protocol))


def _finite(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it must be a JSON object")
    return value


def _read_config(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _variant(folder: Path) -> str | None:
    """The variant of the only weights in a folder; None = they have none, or are not the only ones."""
    names = [file.name for file in folder.glob("diffusion_pytorch_model*.safetensors")]
    found = re.fullmatch(r"diffusion_pytorch_model\.(\w+)\.safetensors", names[0]) if len(names) == 1 else None
    return None if found is None else found[1]


def _read_weights(folder: Path) -> tuple[int | None, str | None]:
    """Number of weights, and their type if it is one of `NARROW_TYPES`, by the safetensors headers; None = no such file."""
    variant = _variant(folder)
    whole = folder / f"diffusion_pytorch_model.{f'{variant}.' if variant else ''}safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("diffusion_pytorch_model-*-of-*.safetensors"))
    total, types = 0, set[str]()
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118
                total += sum(math.prod(part.get_shape()) for part in slices)
                types |= {part.get_dtype() for part in slices}
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged: it is not whole, or not in the safetensors format") from error
    return total if files else None, NARROW_TYPES.get(types.pop()) if len(types) == 1 else None
