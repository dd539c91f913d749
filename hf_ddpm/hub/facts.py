"""Read what a saved pipeline and the folder of its run say about a model; nothing is loaded, and no weight is read."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PIPELINE_CLASS = "CFGDDPMPipeline"
HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class PipelineFacts:
    """A folder that `save_pretrained` wrote."""

    class_name: str
    """Class of the pipeline, as model_index.json names it."""
    components: list[str]
    """Folders of its parts."""
    scheduler: dict[str, Any]
    """Its configuration; empty = the pipeline has none."""
    unet: dict[str, Any]
    """Its configuration; empty = the pipeline has none, or it is not called like a UNet2DModel."""
    parameters: int | None
    """Numbers in the file of the U-Net's weights; None = there is no such file."""
    id2label: dict[int, str]
    """Class id to class name; empty = no names."""
    null_label: int | None
    """Label of "no class"; None = there is none."""
    has_code: bool
    """Whether pipeline.py lies beside the weights."""
    network_code: str | None
    """File that holds, or is to hold, the code of the network; None = diffusers has it."""

    @property
    def is_ours(self) -> bool:
        return self.class_name == PIPELINE_CLASS

    @property
    def num_classes(self) -> int | None:
        """Classes without the null label; None = unconditional."""
        embeddings = self.unet.get("num_class_embeds")
        return None if embeddings is None else embeddings - (self.null_label is not None)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width in pixels; None = not known."""
        size = self.unet.get("sample_size")
        return (size, size) if isinstance(size, int) else tuple(size) if size else None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The folder of a training run."""

    folder: Path
    config: dict[str, Any]
    """config.yaml."""
    environment: dict[str, Any]
    """environment.json; empty = there is none."""
    metrics: list[dict[str, Any]]
    """Lines of metrics.jsonl, oldest first."""
    results: dict[str, dict[str, Any]]
    """results/NAME.json by NAME."""
    samples: Path | None
    """The newest grid of samples; None = there is none."""
    source_kind: str
    """`digits`, `hub` or `local`, see `source_kind`."""

    def option(self, group: str, name: str) -> Any:
        """One option of a group; None = off, or not an option of this run."""
        return (self.config.get(group) or {}).get(name)

    def last(self, name: str) -> dict[str, Any] | None:
        """The last line of metrics.jsonl with a finite number of this name."""
        return next((line for line in reversed(self.metrics) if is_number(line.get(name))), None)


def read_pipeline(folder: Path) -> PipelineFacts:
    """Read the JSON files of a saved pipeline.

    Raises:
        ValueError: the folder is not a saved pipeline.
    """
    if not (folder / "model_index.json").is_file():
        inner = folder / "pipeline"
        is_run = (inner / "model_index.json").is_file()
        remedy = f"this is a run directory, give {inner}" if is_run else "no saved pipeline, there is no model_index.json"
        raise ValueError(f"--model is {str(folder)!r}: {remedy}")
    index = _read_json(folder / "model_index.json")
    components = [name for name, value in index.items() if isinstance(value, list) and all(value)]
    unet = _read_config(folder / "unet" / "config.json")
    library = (index.get("unet") or ["diffusers"])[0]
    return PipelineFacts(
        class_name=_class_name(index.get("_class_name")),
        components=components,
        scheduler=_read_config(folder / "scheduler" / "scheduler_config.json"),
        unet=unet if "sample_size" in unet and "cross_attention_dim" not in unet else {},
        parameters=_count_numbers(folder / "unet"),
        id2label=dict(sorted((int(label), str(name)) for label, name in (index.get("id2label") or {}).items())),
        null_label=index.get("null_label"),
        has_code=(folder / "pipeline.py").is_file(),
        network_code=None if library == "diffusers" else f"unet/{library}.py",
    )


def read_run(folder: Path) -> RunFacts:
    """Read the files of a run folder, of which only config.yaml must be there.

    Raises:
        ValueError: a file is damaged.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it must be the YAML of a run's options")
    environment = folder / "environment.json"
    results = {path.stem: _read_json(path) for path in sorted((folder / "results").glob("*.json"))}
    for name, result in results.items():
        metrics = result.get("metrics")
        if not isinstance(metrics, dict) or not all(isinstance(metric, dict) for metric in metrics.values()):
            raise ValueError(f"{folder / 'results' / name}.json is no result: `metrics` must be there, by name")
    return RunFacts(
        folder=folder,
        config=config,
        environment=_read_json(environment) if environment.exists() else {},
        metrics=_read_lines(folder / "metrics.jsonl"),
        results=results,
        samples=max((folder / "samples").glob("step-*.png"), default=None),
        source_kind=source_kind(str((config.get("data") or {}).get("source", "digits")), folder),
    )


def source_kind(source: str, run_dir: Path) -> str:
    """Say where the images came from.

    Args:
        source: `--data.source` of the run.
        run_dir: folder of the run. A relative source is looked for in the working folder and in every folder above the
            run: a run is often published from elsewhere than where it was trained.

    Returns:
        `digits` (embedded), `hub` (the id of a data set on the Hub) or `local`.
    """
    if source == "digits":
        return "digits"
    roots = [Path.cwd(), *run_dir.resolve().parents]
    is_local = not HUB_ID.fullmatch(source) or any((root / source).exists() for root in roots)
    return "local" if is_local else "hub"


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it must hold a JSON object")
    return value


def _read_config(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _class_name(value: Any) -> str:
    # The form [module, class] names a class that lies in the repository.
    return str(value[-1] if isinstance(value, list) and value else value)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:  # the line that a killed run was writing
            continue
        if isinstance(record, dict):
            lines.append(record)
    return lines


def _count_numbers(folder: Path) -> int | None:
    """Sum of the sizes in the headers of the safetensors files of one variant."""
    whole = folder / "diffusion_pytorch_model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("diffusion_pytorch_model-*-of-*.safetensors"))
    total = 0
    for file in files:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total if files else None
