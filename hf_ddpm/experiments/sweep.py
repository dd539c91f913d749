"""Measure a model at every point of a grid, as `evaluate` does; finished points are kept as JSON, to continue a sweep."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import SchedulerMixin

from hf_ddpm.cli import dump_config
from hf_ddpm.commandline.commands import as_typed, start_here
from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.evaluation.features import Extractor, build_extractor, weights_digest
from hf_ddpm.evaluation.kept_seeds import KeptSeeds, kept_key
from hf_ddpm.evaluation.options import EvaluationConfig, ReferenceDataConfig, SamplingConfig
from hf_ddpm.evaluation.protocol import (
    check_sampling,
    data_of_training,
    data_options,
    generation_options,
    measure,
    open_references,
)
from hf_ddpm.evaluation.references import MIN_IMAGES, References
from hf_ddpm.evaluation.report import describe_samples
from hf_ddpm.experiments.equal_time import CALIBRATION, STEPS, train_recipe, with_equal_time
from hf_ddpm.experiments.options import SAMPLING_AXES, GridPoint, SweepConfig, Trainings, flat_options
from hf_ddpm.experiments.tables import SweepRow
from hf_ddpm.first_checks import check_scheduler
from hf_ddpm.image_shape import ImageSize, size_pair, size_text
from hf_ddpm.results import Results
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.lock import HOLDER, LOCK, OutputLock
from hf_ddpm.runtime.reading import parse_yaml, read_yaml
from hf_ddpm.runtime.signals import Stopped, StopRequest, stop_requests
from hf_ddpm.runtime.threads import choose_threads_in_use
from hf_ddpm.sampling import ImagePipeline, all_conditions, generate, image_shape_of, load_pipeline, network_of
from hf_ddpm.schedulers import build_scheduler
from hf_ddpm.training.options import GANConfig, TrainConfig
from hf_ddpm.training.posthoc_average import average_of_run

OPTIONS = "sweep.yaml"
"""File with the options of the sweep."""
EARLIER = {"runs", STEPS, CALIBRATION, LOCK, HOLDER}
"""Contents of a folder before its options are written: models, the lengths of their trainings, and the lock."""
NO_SAMPLING = dict.fromkeys(("scheduler", "num_inference_steps", "guidance_scale", "eta", "dtype"))
"""What the protocol of noise says of the sampling."""
FREE = ("output_dir", "num_threads", "sampling.batch_size")
"""Options that do not change a result."""


def sweep(config: SweepConfig, trainings: Trainings | None = None) -> list[SweepRow]:
    """Measure every unfinished point of the grid, and return a row for each point, in the order of the grid.

    Every process has to call it. It fills in the checkpoints that `all` stands for; `trainings` None = `config.trainings()`.
    A ValueError names an option that is wrong, or does not fit the models, the data or the content of the folder, or another
    sweep that is writing there; SIGINT and SIGTERM raise `Stopped`.
    """
    trainings = config.trainings() if trainings is None else trainings
    _check_schedulers(config)
    config.resolve_checkpoints()
    check_same_start(config, OPTIONS, EARLIER)
    processes = init_distributed(config.num_threads)
    if processes.num_processes > 1 and any(run.is_gan for run in trainings):
        raise ValueError("--grid.recipe: a GAN is trained by a single process, leave the launcher out")
    with OutputLock(Path(config.output_dir), processes) as lock:
        lock.take(partial(_prepare_folder, config))
        return _train_and_measure(config, trainings, processes)


def _train_and_measure(config: SweepConfig, trainings: Trainings, processes: PartialState) -> list[SweepRow]:
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
        return _measure_points(config, data, extractor, processes, stop)


def point_config(config: SweepConfig, point: GridPoint) -> EvaluationConfig:
    """The options of `evaluate` for this point; for noise and GANs only those that they depend on."""
    given: dict[str, Any] = {option.name: getattr(config, option.name, None) for option in fields(EvaluationConfig)}
    given["output"] = Path(config.output_dir) / "repeated" / f"{point.name}.json"
    given |= {"model": point.model, "num_images": point.num_images}
    if point.is_gan:
        given["bits_per_dim_images"] = None
        given["sampling"] = SamplingConfig(dtype=config.sampling.dtype, batch_size=config.sampling.batch_size)
    elif not point.is_noise:
        given["sampling"] = replace(config.sampling, **{name: getattr(point, name) for name in SAMPLING_AXES})
    return EvaluationConfig(**given)


def evaluation_command(config: EvaluationConfig, num_processes: int) -> str:
    """The command that repeats a measurement, with all options that differ from their defaults."""
    arguments = [f"--{name}={value}" for name, value in _changed_options(config)]
    return f"{start_here().command('evaluate', num_processes)} {shlex.join(arguments)}"


def count_nfe(pipeline: ImagePipeline, sampling: SamplingConfig) -> int:
    """Count the images that the network processes for one sample (NFE): two for a guided step, one for a GAN."""
    if isinstance(pipeline, DCGANPipeline):
        return 1
    counts: list[int] = []
    networks = [network for network in (pipeline.unet, pipeline.guide) if network is not None]
    hooks = [it.register_forward_hook(lambda module, inputs, output: counts.append(len(inputs[0]))) for it in networks]
    try:
        labels = all_conditions(pipeline)[:1] or [None]
        list(generate(pipeline, class_labels=labels, **generation_options(pipeline, sampling)))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)


class Models:
    """The pipelines of the points; the last one stays loaded."""

    def __init__(self, config: SweepConfig, processes: PartialState):
        self.config, self._device = config, config.device or processes.device
        self._loaded: tuple[str, ImagePipeline, SchedulerMixin | None] | None = None

    def open(self, point: GridPoint) -> ImagePipeline:
        """The pipeline of a point, with its scheduler; ValueError: it does not support the sampling options."""
        if self._loaded is None or self._loaded[0] != point.model:
            dtype = getattr(torch, self.config.sampling.dtype)
            guide = None if point.is_gan else self.config.sampling.guide
            pipeline = load_pipeline(point.model, device=self._device, dtype=dtype, guide=guide)
            if self.config.num_threads is None:
                choose_threads_in_use(network_of(pipeline))
            if isinstance(pipeline, DCGANPipeline) and not point.is_gan:
                remedy = f"measure it with {as_typed('hf-ddpm evaluate')}, or sweep over its recipe with --grid.recipe"
                raise ValueError(f"--model is {point.model!r}: it is a GAN, {remedy}")
            self._loaded = point.model, pipeline, getattr(pipeline, "scheduler", None)
        _, pipeline, saved = self._loaded
        sampling = point_config(self.config, point).sampling
        if saved is not None:
            name = None if point.is_noise else sampling.scheduler
            pipeline.scheduler = saved if name is None else build_scheduler(name, saved.config)
        if not point.is_noise:
            check_sampling(pipeline, sampling)
        return pipeline


def _measure_points(
    config: SweepConfig, data: ReferenceDataConfig | None, extractor: Extractor, processes: PartialState, stop: StopRequest
) -> list[SweepRow]:
    points, models = config.points(), Models(config, processes)
    shapes = set()
    for point in reversed(points):  # so that the first is loaded last
        pipeline = models.open(point)
        shapes.add((image_shape_of(pipeline), pipeline.pixel_type, pipeline.value_range))
    if len(shapes) > 1:
        raise ValueError("--grid.recipe: the models differ in image size, channels or values, sweep over each separately")
    data = data or data_options(config.data, points[0].model)
    references = open_references(point_config(config, points[0]), data, pipeline, extractor, processes)
    found = read_points(points, models, references)
    if processes.is_main_process:
        write_whole(Path(config.output_dir) / OPTIONS, dump_config(config))
    rows = []
    for number, point in enumerate(points, start=1):
        results = found[point]
        if results is None:
            if processes.is_main_process:
                print(f"cell {number} of {len(points)}: {point.name}", flush=True)
            results = measure_point(point, models, data, references, stop)
        rows.append(SweepRow.of(point, results))
    processes.wait_for_everyone()
    return rows


def read_points(points: Sequence[GridPoint], models: Models, references: References) -> dict[GridPoint, Results | None]:
    """The results of the points that are finished, None = not yet; every process has to call it.

    A `ValueError` refuses those of other weights, options, data or features.
    """
    config = models.config
    found = {point: _read(_path(config, point)) for point in points}
    references.processes.wait_for_everyone()  # before the main process writes files that the others look for
    for point, results in found.items():
        if results is not None:
            _check_cell(config, point, models.open(point), results)
    _check_same_references(config, found, references)
    return found


def measure_point(
    point: GridPoint, models: Models, data: ReferenceDataConfig, references: References, stop: StopRequest
) -> Results:
    """Measure a point and write its file."""
    options, path = point_config(models.config, point), _path(models.config, point)
    pipeline, processes = models.open(point), references.processes
    kept = KeptSeeds(path, {**kept_key(options, pipeline, references), "noise": point.is_noise})
    nfe = None if point.is_noise else count_nfe(pipeline, options.sampling)
    results = measure(options, data, pipeline, references, kept, stop=stop, noise=point.is_noise)
    if point.is_noise:
        results.protocol.update(NO_SAMPLING, model="uniform noise")
    else:
        results.protocol.update(command=evaluation_command(options, processes.num_processes), network_calls=nfe)
    if processes.is_main_process:
        write_whole(path, results.to_json())
        kept.forget()
    return results


def _train(config: SweepConfig, trainings: Trainings) -> None:
    what = "steps were timed"
    try:
        for run, options in with_equal_time(config, trainings).items():
            what = f"{run.name} was trained"
            train_recipe(options)
    except Stopped as stopped:
        raise Stopped(stopped.signal_number, f"stopped while {what}; the same command continues from there") from None


def _check_schedulers(config: SweepConfig) -> None:
    for name in config.grid.scheduler or filter(None, [config.sampling.scheduler]):
        check_scheduler(name)
    for count in config.grid.num_images or [config.num_images]:
        if count < MIN_IMAGES:
            raise ValueError(f"--num_images is {count}: density and coverage need at least {MIN_IMAGES}")


def _prepare_folder(config: SweepConfig) -> None:
    """Check the folder again, now that no other sweep can write there, and make the averages of the grid."""
    check_same_start(config, OPTIONS, EARLIER)
    for length in config.grid.sigma_rel or ():
        average_of_run(config.run_of_averages(), length)


def check_same_start(config: Any, options: str, earlier: Collection[str], free: Collection[str] = FREE) -> None:
    """Refuse a folder with anything but an earlier start of the same command.

    Args:
        config: with the folder as `output_dir`.
        options: name of the file there with the options of the earlier start.
        earlier: what may be there without that file.
        free: options that may change.
    """
    folder, path = Path(config.output_dir), Path(config.output_dir) / options
    if not path.is_file():
        others = sorted({entry.name for entry in folder.iterdir()} - set(earlier)) if folder.is_dir() else []
        if folder.exists() and (others or not folder.is_dir()):
            raise ValueError(f"--output_dir is {str(folder)!r}: it contains something else, give a new or empty folder")
        return
    try:
        before = flat_options(read_yaml(path))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"--output_dir is {str(folder)!r}: its {options} is damaged, give another folder") from error
    now = flat_options(parse_yaml(dump_config(config)))
    for name in sorted(before.keys() | now.keys()):
        if name not in free and before.get(name) != now.get(name):
            remedy = f"the {path.stem} in {folder} was started with {before.get(name)!r}, give another --output_dir"
            raise ValueError(f"--{name} is {now.get(name)!r}: {remedy}")


def _check_cell(config: SweepConfig, point: GridPoint, pipeline: ImagePipeline, results: Results) -> None:
    """Refuse results in the folder that are of other weights or options than this sweep would measure."""
    path, protocol = _path(config, point), results.protocol
    if protocol.get("model_sha256") != weights_digest(network_of(pipeline)):
        what = f"its weights have changed since {path} was measured"
        raise ValueError(f"--model is {point.model!r}: {what}, give another --output_dir")
    expected = describe_samples(point_config(config, point), pipeline) | (NO_SAMPLING if point.is_noise else {})
    for name, value in json.loads(json.dumps(expected)).items():  # an interval is a list there
        if protocol.get(name, value) != value:
            what = f"{path} was measured with {name} {protocol[name]!r} and not {value!r}"
            raise ValueError(f"--output_dir is {str(config.output_dir)!r}: {what}, remove it or give another folder")


def _check_same_references(config: SweepConfig, found: Mapping[GridPoint, Results | None], references: References) -> None:
    split = references.train if config.reference_split == "train" else references.test
    now = {
        "features_sha256": references.extractor.digest,
        "reference_fingerprint": split and split.fingerprint,
        "reference_images": references.summary.num_images,
    }
    for point, results in found.items():
        changed = [] if results is None else [name for name in now if results.protocol.get(name) != now[name]]
        if changed:
            what = "--features" if changed[0].startswith("features") else "--data.source"
            raise ValueError(f"{what}: it has changed since {_path(config, point)} was measured, give another --output_dir")


def _data_of_recipes(config: SweepConfig, trainings: Trainings) -> ReferenceDataConfig:
    """The options of the real images, the same for all recipes."""
    known = [options.data for options in trainings.values()]
    sizes, channels = map(_image_size, trainings.values()), (data.channels for data in known)
    for found, what in ((sizes, "pixels"), (channels, "channels")):
        different = sorted({value for value in found if value is not None}, key=size_pair)
        if len(different) > 1:
            counts = " and ".join(str(value) if isinstance(value, int) else size_text(value) for value in different)
            raise ValueError(f"--grid.recipe: the recipes have images of {counts} {what}, sweep over each separately")
    if config.data.source is not None:
        return config.data
    options = [{name: value for name, value in asdict(data).items() if value is not None} for data in known]
    test_split = next((given["test_split"] for given in options if "test_split" in given), None)  # a GAN names none
    first, *others = [data_of_training(config.data, {"test_split": test_split, **given}) for given in options]
    if any(other != first for other in others):
        remedy = "give the real images to compare with as --data.source"
        raise ValueError(f"--grid.recipe: the recipes have different data, {remedy}")
    return first


def _image_size(options: TrainConfig | GANConfig) -> ImageSize | None:
    """Height and width of the training images in pixels; None = those of the data."""
    size = options.data.image_size
    return options.network_arguments(image_size=size)["sample_size"] if isinstance(options, TrainConfig) else size


def _path(config: SweepConfig, point: GridPoint) -> Path:
    return Path(config.output_dir) / "cells" / f"{point.name}.json"


def _read(path: Path) -> Results | None:
    """The results of a point; None = it is not finished."""
    try:
        return Results.read(path) if path.is_file() else None
    except ValueError as error:
        raise ValueError(f"--output_dir: {path} is damaged, remove it and start again") from error


def _changed_options(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Options that differ from their defaults, with their values as typed on the command line."""
    for option in fields(config):
        value = getattr(config, option.name)
        if is_dataclass(value):
            yield from _changed_options(value, f"{prefix}{option.name}.")
        elif value != option.default:
            yield prefix + option.name, str(value) if isinstance(value, (str, Path)) else json.dumps(value)
