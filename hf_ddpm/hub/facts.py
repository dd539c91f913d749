"""Facts about a model, read from its saved pipeline and run folder without loading any weights."""

from __future__ import annotations

import json
import math
import re
import shlex
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from hf_ddpm.markdown import without_paths
from hf_ddpm.results import MetricValue, Results
from hf_ddpm.run_folder import GridSettings, RunFolder
from hf_ddpm.runtime.reading import parse_json, read_json

HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
MAX_CLASSES_SHOWN = 100
PRIVATE_OPTIONS = ("output_dir", "resume", "num_threads", "hub")
"""Options of the machine or the user rather than the model."""
LOCAL_SOURCE = "path/to/images"
"""Placeholder for the source of local images in a published recipe."""

SourceKind = Literal["digits", "hub", "local"]


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
    id2label: dict[int, str]
    """Class id to class name; empty = no names."""
    null_label: int | None
    """Label that means no class; None = the model has none."""
    has_code: bool
    """Whether the folder contains pipeline.py."""
    network_code: str | None
    """Where the network's code belongs, such as unet/class_map_unet.py; None = it is part of diffusers."""

    @property
    def is_ours(self) -> bool:
        return self.class_name == "CFGDDPMPipeline"

    @property
    def num_classes(self) -> int | None:
        """Classes without the null label; None = unconditional."""
        embeddings = self.unet.get("num_class_embeds")
        return None if embeddings is None else embeddings - (self.null_label is not None)

    @property
    def size(self) -> str:
        """Height and width in pixels, as `28 x 28`; of a pipeline with a U-Net."""
        size = self.unet["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return f"{height} x {width}"

    @property
    def example_labels(self) -> tuple[int | str, int]:
        """The first class, by name if the name is unique, and the last one by id."""
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

    gpu: str | None
    processor: str | None
    num_processes: int | None
    num_threads: int | None
    """Threads per process."""
    versions: dict[str, str]
    """Of Python and packages, by name."""
    commit: str | None
    """Git commit of hf_ddpm."""
    command: list[str]


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
    samples: tuple[int, Path] | None
    """Optimizer step and file of the newest grid of samples; None = there is none."""
    grid: GridSettings | None
    """How the grid was sampled; None = the run did not record it."""
    source: str
    """`--data.source`."""
    source_kind: SourceKind

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
        """Number of training images: images seen divided by epochs; None = unknown."""
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
    def command(self) -> str | None:
        """The recorded command line; None = another program called `train`."""
        script, *arguments = self.machine.command or [""]
        if Path(script).parts[-2:] != ("train_scripts", "train.py"):
            return None
        processes = self.machine.num_processes or 1
        launcher = "python" if processes == 1 else f"torchrun --nproc_per_node {processes}"
        return f"{launcher} train_scripts/train.py {shlex.join(without_paths(arguments))}".rstrip()

    @property
    def recipe(self) -> str:
        """The resolved options as YAML, without private ones and with paths shortened."""
        options = without_paths({name: value for name, value in self.config.items() if name not in PRIVATE_OPTIONS})
        if "data" in options:
            options["data"]["labels"] = self.option("data", "labels")  # class names may look like paths
            if self.source_kind == "local":
                options["data"]["source"] = LOCAL_SOURCE
        return yaml.safe_dump(options, sort_keys=False)


def read_pipeline(folder: Path) -> PipelineFacts:
    """Read the JSON files of a saved pipeline; ValueError: the folder is not one."""
    if not (folder / "model_index.json").is_file():
        inner, remedy = RunFolder(folder).pipeline, "give a saved pipeline, a folder with model_index.json"
        if (inner / "model_index.json").is_file():
            remedy = f"this is a run directory, give {inner}"
        raise ValueError(f"--model is {str(folder)!r}: {remedy}")
    index = _read_json(folder / "model_index.json")
    unet = _read_config(folder / "unet" / "config.json")
    library = (index.get("unet") or ["diffusers"])[0]
    name = index.get("_class_name")
    return PipelineFacts(
        class_name=str(name[-1] if isinstance(name, list) and name else name),  # [module, class] = a class of the repository
        components=[name for name, value in index.items() if isinstance(value, list) and all(value)],
        scheduler=_read_config(folder / "scheduler" / "scheduler_config.json"),
        unet=unet if "sample_size" in unet and "cross_attention_dim" not in unet else {},
        parameters=_count_numbers(folder / "unet"),
        id2label=dict(sorted((int(label), str(name)) for label, name in (index.get("id2label") or {}).items())),
        null_label=index.get("null_label"),
        has_code=(folder / "pipeline.py").is_file(),
        network_code=None if library == "diffusers" else f"unet/{library}.py",
    )


def read_run(run: RunFolder) -> RunFacts:
    """Read the files of a run folder; only config.yaml is required. ValueError: a file is damaged."""
    config = run.read_options()
    source = str((config.get("data") or {}).get("source", "digits"))
    return RunFacts(
        config=config,
        machine=_read_machine(run.environment),
        log=_read_lines(run.metrics),
        results={path.stem: _read_results(path) for path in sorted(run.results.glob("*.json"))},
        samples=max(run.sample_grids().items(), default=None),
        grid=run.read_grid_settings(),
        source=source,
        source_kind=source_kind(source, run.path),
    )


def source_kind(source: str, run_dir: Path) -> SourceKind:
    """Where the images of `--data.source` came from: `digits` (embedded), `hub` (a data set id on the Hub) or `local`.

    A relative path may begin in the working folder or any folder above the run, which may be published from another place.
    """
    if source == "digits":
        return "digits"
    roots = [Path.cwd(), *run_dir.resolve().parents]
    is_local = not HUB_ID.fullmatch(source) or any((root / source).exists() for root in roots)
    return "local" if is_local else "hub"


def _read_machine(path: Path) -> MachineFacts:
    environment = _read_config(path)
    versions = {"python": environment.get("python"), **(environment.get("packages") or {})}
    return MachineFacts(
        **{name: environment.get(name) for name in ("gpu", "processor", "num_processes", "num_threads", "commit")},
        versions={name: version for name, version in versions.items() if version},
        command=[str(argument) for argument in environment.get("command") or []],
    )


def _read_results(path: Path) -> Results:
    results = Results.read(path)
    return replace(
        results,
        metrics={name: metric for name, metric in results.metrics.items() if math.isfinite(metric.mean)},
        floor=_finite(results.floor),
        ceiling=_finite(results.ceiling),
        protocol={name: without_paths(value) for name, value in results.protocol.items() if value is not None},
    )


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


def _read_lines(path: Path) -> list[dict[str, float]]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = parse_json(line)
        except ValueError:  # a killed run left half a line
            continue
        if isinstance(record, dict):
            lines.append(_finite(record))
    return lines


def _count_numbers(folder: Path) -> int | None:
    """Number of weights according to the safetensors headers; None = no such file."""
    whole = folder / "diffusion_pytorch_model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("diffusion_pytorch_model-*-of-*.safetensors"))
    total = 0
    for file in files:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total if files else None
