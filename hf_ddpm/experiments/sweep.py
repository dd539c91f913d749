"""Measure a model at every point of a grid: `rows = sweep(config)`, one row a cell, in the order of the grid.

A cell is a measurement as `evaluate` takes it, and is kept as its JSON file; extractor, real images, floor and ceiling are
shared by all. What is finished stays, so that the same sweep goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState

from hf_ddpm.cli import dump_config
from hf_ddpm.config import DataConfig
from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.evaluation.features import Extractor, build_extractor, weights_digest
from hf_ddpm.evaluation.kept_seeds import KeptSeeds, kept_key
from hf_ddpm.evaluation.options import EvaluationConfig, ProtocolConfig, SamplingConfig
from hf_ddpm.evaluation.protocol import (
    Measurement,
    check_sampling,
    data_of_training,
    data_options,
    measure,
    open_references,
)
from hf_ddpm.evaluation.references import MIN_IMAGES
from hf_ddpm.evaluation.report import command_line
from hf_ddpm.experiments.equal_time import CALIBRATION, STEPS, Training, with_equal_time
from hf_ddpm.experiments.options import SAMPLING_AXES, Cell, SweepConfig, TrainedRun
from hf_ddpm.experiments.tables import cell_row
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.signals import Stopped, StopRequest, stop_requests
from hf_ddpm.sampling import ImagePipeline, generate, image_shape_of, load_pipeline, network_of
from hf_ddpm.schedulers import build_scheduler, check_scheduler

OPTIONS = "sweep.yaml"
"""File of the options that the cells of a folder were measured with."""
# What stands in a folder before its options are written: models, and how long they are trained.
EARLIER = {"runs", STEPS, CALIBRATION}
# Options that do not change a result.
_FREE = (("output_dir",), ("num_threads",), ("sampling", "batch_size"))


def sweep(config: SweepConfig, trainings: Mapping[TrainedRun, Training] | None = None) -> list[dict[str, Any]]:
    """Measure every cell of the grid that is not finished; every process has to call it.

    Args:
        config: every option; the checkpoints that `all` stands for are filled in.
        trainings: how each of `config.runs()` is trained; None = there are none.

    Returns:
        A row for each cell, see `cell_row`.

    Raises:
        ValueError: an option is wrong, or does not fit the models, the data or what is in the folder.
        Stopped: SIGINT or SIGTERM.
    """
    _check_schedulers(config)
    config.resolve_checkpoints()
    _check_folder(config)
    processes = init_distributed(config.num_threads)
    trainings = trainings or {}
    if processes.num_processes > 1 and any(run.is_gan for run in config.runs()):
        raise ValueError(
            "--grid.recipe: one of a GAN, which a single process trains, start train_scripts/sweep.py with python"
        )
    data = _data_of_recipes(config, trainings) if config.model is None else None
    extractor = build_extractor(
        config.features,
        inception_weights=config.inception_weights,
        device=config.device or processes.device,
        min_judge_accuracy=config.min_judge_accuracy,
    )
    if config.model is None:
        _train(config, trainings)
    processes = init_distributed(config.num_threads)
    with stop_requests("the sweep ends after this batch") as stop:
        return _measure_cells(config, data, extractor, processes, stop)


def cell_config(config: SweepConfig, cell: Cell) -> EvaluationConfig:
    """The options of `evaluate` that measure this cell alone; of noise and GANs, those that they depend on."""
    given = {option.name: getattr(config, option.name) for option in fields(ProtocolConfig)}
    given["num_images"], sampling = cell.num_images, config.sampling
    if cell.is_gan:
        given["bits_per_dim_images"] = None
        sampling = SamplingConfig(dtype=sampling.dtype, batch_size=sampling.batch_size)
    elif not cell.is_noise:
        sampling = replace(sampling, **{name: getattr(cell, name) for name in SAMPLING_AXES})
    return EvaluationConfig(
        **given,
        model=cell.model,
        output=Path(config.output_dir) / "repeated" / f"{cell.name}.json",
        device=config.device,
        num_threads=config.num_threads,
        data=config.data,
        sampling=sampling,
    )


def evaluation_command(config: EvaluationConfig, num_processes: int) -> str:
    """What repeats a measurement on the command line: all options that differ from their defaults."""
    arguments = [f"--{name}={value}" for name, value in _changed_options(config)]
    return command_line(["train_scripts/evaluate_model.py", *arguments], num_processes)


def count_network_calls(pipeline: ImagePipeline, sampling: SamplingConfig) -> int:
    """Images that the network is given for one sample, counted while one is drawn: a guided step has two, a GAN one."""
    if isinstance(pipeline, DCGANPipeline):
        return 1
    counts = []
    hook = pipeline.unet.register_forward_hook(lambda module, inputs, output: counts.append(len(inputs[0])))
    try:
        label = 0 if pipeline.is_conditional else None
        for _ in generate(
            pipeline,
            class_labels=[label],
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.scale_for(pipeline.null_label),
            eta=sampling.eta,
        ):
            pass
    finally:
        hook.remove()
    return sum(counts)


class _Models:
    """The pipelines of the cells, of which the last one stays loaded."""

    def __init__(self, config: SweepConfig, processes: PartialState):
        self._config, self._processes, self._path = config, processes, None

    def open(self, cell: Cell) -> ImagePipeline:
        """The pipeline of a cell, with its sampler.

        Raises:
            ValueError: it cannot be loaded, or cannot be sampled so.
        """
        if self._path != cell.model:
            device, dtype = self._config.device or self._processes.device, getattr(torch, self._config.sampling.dtype)
            self._pipeline = load_pipeline(cell.model, device=device, dtype=dtype)
            if isinstance(self._pipeline, DCGANPipeline) and not cell.is_gan:
                remedy = "measure it with evaluate_model.py, or sweep over its recipe with --grid.recipe"
                raise ValueError(f"--model is {cell.model!r}: it is a GAN, {remedy}")
            self._path, self._saved = cell.model, getattr(self._pipeline, "scheduler", None)
        sampling = cell_config(self._config, cell).sampling
        if not cell.is_gan:
            name = None if cell.is_noise else sampling.scheduler
            self._pipeline.scheduler = self._saved if name is None else build_scheduler(name, self._saved.config)
        if not cell.is_noise:
            check_sampling(self._pipeline, sampling)
        return self._pipeline


def _measure_cells(
    config: SweepConfig, data: DataConfig | None, extractor: Extractor, processes: PartialState, stop: StopRequest
) -> list[dict[str, Any]]:
    cells, models = config.cells(), _Models(config, processes)
    found = {cell: _read(_path(config, cell)) for cell in cells}
    processes.wait_for_everyone()  # before the first process writes the cells that the others look for
    kinds = set()
    for cell in reversed(cells):  # so that the first is loaded in the end
        pipeline = models.open(cell)
        kinds.add(image_shape_of(pipeline))
        _check_same_model(config, cell, found[cell], pipeline)
    if len(kinds) > 1:
        raise ValueError("--grid.recipe: the models are of other image sizes or channels, sweep over each by itself")
    data = data or data_options(config.data, config.model)
    references = open_references(cell_config(config, cells[0]), data, pipeline, extractor, processes)
    _check_same_references(config, found, references.summary.num_images, extractor, references)
    if processes.is_main_process:
        write_whole(Path(config.output_dir) / OPTIONS, dump_config(config))
    for number, cell in enumerate(cells, start=1):
        if found[cell] is not None:
            continue
        if processes.is_main_process:
            print(f"cell {number} of {len(cells)}: {cell.name}", flush=True)
        found[cell] = _measure_cell(config, cell, data, models.open(cell), references, processes, stop)
    processes.wait_for_everyone()
    return [cell_row(cell, found[cell]) for cell in cells]


def _measure_cell(config, cell: Cell, data, pipeline, references, processes, stop) -> dict[str, Any]:
    """Measure a cell and write its file."""
    options = cell_config(config, cell)
    measurement = Measurement(config=options, references=references, processes=processes, stop=stop)
    kept = KeptSeeds(_path(config, cell), {**kept_key(options, pipeline, references), "noise": cell.is_noise})
    calls = None if cell.is_noise else count_network_calls(pipeline, options.sampling)
    results = json.loads(measure(measurement, data, pipeline, kept, noise=cell.is_noise).to_json())
    protocol = results["protocol"]
    if cell.is_noise:
        nothing = ("scheduler", "num_inference_steps", "guidance_scale", "eta", "dtype")
        protocol.update(dict.fromkeys(nothing), model="uniform noise")
    else:
        protocol.update(command=evaluation_command(options, processes.num_processes), network_calls=calls)
    if processes.is_main_process:
        write_whole(_path(config, cell), json.dumps(results, indent=1) + "\n")
        kept.forget()
    return results


def _train(config: SweepConfig, trainings: Mapping[TrainedRun, Training]) -> None:
    """Train the models that are not finished, each for its own length or as long as the others."""
    what = "steps were timed"
    try:
        trainings = with_equal_time(config, trainings)
        for run in config.runs():
            what = f"{run.folder.name} was trained"
            trainings[run].program(trainings[run].options)
    except Stopped as stopped:
        message = f"stopped while {what}; the same command goes on from there"
        raise Stopped(stopped.signal_number, message) from None


def _check_schedulers(config: SweepConfig) -> None:
    for name in config.grid.scheduler or [config.sampling.scheduler]:
        if name is not None:
            check_scheduler(name)
    for count in config.grid.num_images or [config.num_images]:
        if count < MIN_IMAGES:
            raise ValueError(f"--num_images is {count}: density and coverage need at least {MIN_IMAGES}")


def _check_folder(config: SweepConfig) -> None:
    """Refuse a folder that holds something else than an earlier start of this sweep, or models trained for it."""
    folder = Path(config.output_dir)
    path = folder / OPTIONS
    if not path.is_file():
        others = sorted({entry.name for entry in folder.iterdir()} - EARLIER) if folder.is_dir() else []
        if folder.exists() and (others or not folder.is_dir()):
            raise ValueError(f"--output_dir is {str(folder)!r}: it holds something else, name a new or an empty folder")
        return
    try:
        before, now = (_flat(yaml.safe_load(text)) for text in (path.read_text(encoding="utf-8"), dump_config(config)))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"--output_dir is {str(folder)!r}: its {OPTIONS} is damaged, name another folder") from error
    for name in sorted(before.keys() | now.keys(), key=".".join):
        if name not in _FREE and before.get(name) != now.get(name):
            remedy = f"the sweep in {folder} was begun with {before.get(name)!r}, give another --output_dir"
            raise ValueError(f"--{'.'.join(name)} is {now.get(name)!r}: {remedy}")


def _check_same_model(config: SweepConfig, cell: Cell, results: dict[str, Any] | None, pipeline: ImagePipeline) -> None:
    if results is not None and results["protocol"]["model_sha256"] != weights_digest(network_of(pipeline)):
        remedy = f"its weights have changed since {_path(config, cell)} was measured, give another --output_dir"
        raise ValueError(f"--model is {cell.model!r}: {remedy}")


def _check_same_references(config: SweepConfig, found: Mapping, num_images: int, extractor: Extractor, references) -> None:
    split = references.train if config.reference_split == "train" else references.test
    now = {"features_sha256": extractor.digest, "reference_fingerprint": split.fingerprint, "reference_images": num_images}
    for cell, results in found.items():
        changed = [] if results is None else [name for name in now if results["protocol"][name] != now[name]]
        if changed:
            what = "--features" if changed[0].startswith("features") else "--data.source"
            remedy = f"it has changed since {_path(config, cell)} was measured, give another --output_dir"
            raise ValueError(f"{what}: {remedy}")


def _data_of_recipes(config: SweepConfig, trainings: Mapping[TrainedRun, Training]) -> DataConfig:
    """The options of the real images, the same for all models that are trained."""
    known = [trainings[run] for run in config.runs()]
    sizes = sorted({training.image_size for training in known if training.image_size is not None})
    channels = sorted({training.options.data.channels for training in known if training.options.data.channels is not None})
    for found, what in ((sizes, "pixels"), (channels, "channels")):
        if len(found) > 1:
            counts = " and ".join(map(str, found))
            raise ValueError(f"--grid.recipe: the recipes are of images of {counts} {what}, sweep over each by itself")
    if config.data.source is not None:
        return config.data
    splits = (training.options.data.test_split for training in known)
    test_split = next((split for split in splits if split is not None), None)  # a GAN names none
    data = [{"test_split": test_split, **_given(asdict(training.options.data))} for training in known]
    first, *others = [data_of_training(config.data, options) for options in data]
    if any(other != first for other in others):
        raise ValueError("--grid.recipe: the recipes have different data, give those to compare with as --data.source")
    return first


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _path(config: SweepConfig, cell: Cell) -> Path:
    return Path(config.output_dir) / "cells" / f"{cell.name}.json"


def _read(path: Path) -> dict[str, Any] | None:
    """The results of a finished cell; None = it is not finished."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        results["metrics"], results["floor"], results["ceiling"], results["protocol"]["model_sha256"]
        return results
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--output_dir: {path} is damaged, remove it and start again") from error


def _flat(options: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Nested options as one dict of paths."""
    flat = {}
    for name, value in options.items():
        flat |= _flat(value, (*path, name)) if isinstance(value, dict) else {(*path, name): value}
    return flat


def _changed_options(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Options of a dataclass that are not at their defaults, with their values as they are typed."""
    for option in fields(config):
        value = getattr(config, option.name)
        if is_dataclass(value):
            yield from _changed_options(value, f"{prefix}{option.name}.")
        elif value != option.default:
            yield prefix + option.name, str(value) if isinstance(value, (str, Path)) else json.dumps(value)
