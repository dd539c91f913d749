"""Evaluate a pipeline: `results = evaluate(config)` turns a saved model into metrics with standard errors.

For each of k seeds n images are sampled and turned into features batch by batch, so that only one batch of images is in
memory. Real images (the floor) and noise (the ceiling) are scored in the same way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from hf_ddpm.data.given import load_given
from hf_ddpm.data.load_splits import load_splits, options_of_run
from hf_ddpm.data.table import ImageTable
from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.evaluation.features import Extractor, build_extractor, check_channels
from hf_ddpm.evaluation.kept_seeds import KeptSeeds, SeedScores, kept_key
from hf_ddpm.evaluation.options import MAX_IMAGES, EvaluationConfig, ProtocolConfig, ReferenceDataConfig, SamplingConfig
from hf_ddpm.evaluation.reference_cache import reference_summary
from hf_ddpm.evaluation.references import MIN_IMAGES, References, batches_of, nearest_positions
from hf_ddpm.evaluation.report import LOSS_IMAGES, assemble
from hf_ddpm.heldout_metrics import bits_per_dim, simple_loss
from hf_ddpm.pipeline import Condition
from hf_ddpm.results import Results
from hf_ddpm.runtime.distributed import any_process_stopped, broadcast_from_main, gather, init_distributed, shard
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.runtime.signals import Stopped, StopRequest, stop_requests
from hf_ddpm.runtime.threads import choose_threads_in_use
from hf_ddpm.sampling import (
    ImagePipeline,
    all_conditions,
    condition_of,
    decoded_for,
    generate,
    image_shape_of,
    load_pipeline,
    network_of,
    set_dtype,
)

BATCH_SIZE = 256
"""Real images per batch."""


@dataclass(kw_only=True, eq=False)
class Measurement:
    """Scores the images of one seed after another; every process must call each method."""

    config: ProtocolConfig
    references: References
    stop: StopRequest

    @property
    def processes(self) -> PartialState:
        return self.references.processes

    def score_seed(self, pipeline: ImagePipeline, sampling: SamplingConfig, number: int) -> SeedScores:
        """Sample the images of the seed with this index, from 0, and score them; `Stopped` on a signal, after a batch."""
        config = self.config
        labels, classes = self.labels(pipeline)
        mine = shard(config.num_images, self.processes)
        batches = generate(
            pipeline,
            class_labels=labels[mine],
            seed=(config.seed + number) * MAX_IMAGES + mine.start,
            batch_size=sampling.batch_size,
            **generation_options(pipeline, sampling),
            progress=True,
        )
        images = (torch.from_numpy(batch.images.transpose(0, 3, 1, 2).copy()) for batch in batches)
        scores, started = self._score_images(images, classes, sampling.batch_size), time.perf_counter()
        with Progress("losses"):
            scores.metrics.update(self.losses(pipeline, config.seed + number))
        scores.seconds["metrics"] += time.perf_counter() - started
        return scores

    def score_noise(self, pipeline: ImagePipeline, sampling: SamplingConfig, number: int) -> SeedScores:
        """Score uniform noise instead of the samples of a seed; see `score_seed`."""
        positions = torch.arange(self.config.num_images)[shard(self.config.num_images, self.processes)]
        first = (self.config.seed + number) * MAX_IMAGES
        batches = (self.references.noise(first + batch) for batch in batches_of(positions, sampling.batch_size))
        return self._score_images(batches, self.labels(pipeline)[1], sampling.batch_size)

    def _score_images(self, batches: Iterator[Tensor], classes: np.ndarray | None, batch_size: int) -> SeedScores:
        """Score this process's share of the images, batches (B, C, H, W); `classes` are (n,), of all processes."""
        config, references, clock = self.config, self.references, _Clock()
        mine = shard(config.num_images, self.processes)
        summary = references.new_summary(config.num_images, labelled=classes is not None)
        wanted = set(nearest_positions(config.num_images).tolist())
        kept: list[np.ndarray] = []
        largest_share = math.ceil(config.num_images / self.processes.num_processes)
        for start in range(0, largest_share, batch_size):  # equally often in every process
            images = next(batches, None)
            clock.lap("sampling")
            if images is not None:
                positions = np.arange(mine.start + start, mine.start + start + len(images))
                found = references.extractor(images, references.train.value_range)
                summary.update(found, None if classes is None else classes[positions], positions)
                kept += [image for image, i in zip(images.numpy(), positions.tolist(), strict=True) if i in wanted]
                clock.lap("features")
            if number_of_signal := any_process_stopped(self.stop, self.processes):
                raise Stopped(number_of_signal, "stopped; the same command continues after the last finished seed")
        next(batches, None)  # exhausts the iterator, which completes its progress bar
        summary = summary.of_all_processes(self.processes)
        kept = gather(kept, self.processes)

        def score() -> SeedScores:
            with Progress("metrics"):
                nearest = references.nearest_train_distance(np.stack(kept))
                metrics = {**references.score(summary), "nearest_train_distance": nearest}
                return SeedScores(metrics=metrics, per_class=references.score_classes(summary), seconds={})

        scores = broadcast_from_main(score, self.processes)
        clock.lap("metrics")
        scores.seconds = clock.seconds
        return scores

    def losses(self, pipeline: ImagePipeline, seed: int) -> dict[str, float]:
        """Denoising loss on each split, with noise and timesteps of this seed, and bits per dimension if requested.

        Empty for a GAN or a distilled model, which does not predict the mean, and for data whose classes are not those of
        the model.
        """
        train, test = self.references.train, self.references.test
        if isinstance(pipeline, DCGANPipeline) or pipeline.is_distilled:
            return {}
        ids = _ids_of_classes(pipeline, train.class_names or [])
        if pipeline.is_conditional and sorted(ids) != list(range(pipeline.num_classes or 0)):
            return {}
        if pipeline.is_conditional and pipeline.id2label is not None:
            names = list(pipeline.id2label.values())
            train, test = train.in_class_order(names), None if test is None else test.in_class_order(names)
        losses = {}
        for split, table in (("train", train), ("test", test)):
            if table is not None:
                count = min(LOSS_IMAGES, len(table))
                measure = partial(simple_loss, pipeline, table, num_images=count, seed=seed, spread=True)
                losses[f"simple_loss_{split}"] = broadcast_from_main(measure, self.processes).mean
        if self.config.bits_per_dim_images is not None:
            assert test is not None, "open_references refuses this"
            bits = bits_per_dim(
                pipeline,
                test,
                num_images=self.config.bits_per_dim_images,
                timesteps_per_image=self.config.bits_per_dim_timesteps,
                seed=seed,
                processes=self.processes,
            )
            losses["bits_per_dim_test"] = bits.total.mean
        return losses

    def labels(self, pipeline: ImagePipeline) -> tuple[list[Condition | None], np.ndarray | None]:
        """The model's label of each image, and (n,) the data's label of the same class; None = no classes.

        Sets of labels and numbers are those of training images evenly spread over the split, whatever the class prior.
        """
        train, count = self.references.train, self.config.num_images
        names, train_labels = train.class_names, train.class_labels
        if not pipeline.is_conditional or names is None or train_labels is None:
            return [None] * count, None
        if train.condition != "class":
            spread = torch.arange(count) * len(train) // count
            return self._conditions(pipeline, train_labels[spread], names), None
        classes = np.arange(count) % len(names)
        if self.config.class_prior == "train":
            rows = (2 * np.arange(count) + 1) * len(train) // (2 * count)
            classes = np.sort(train_labels.numpy())[rows]
        ids = _ids_of_classes(pipeline, names)
        return [ids[label] for label in classes], classes

    def _conditions(self, pipeline: ImagePipeline, labels: Tensor, names: list[str]) -> list[Condition | None]:
        """Sets of labels, (n, K) bool, or numbers, (n, 1), as the model takes them."""
        if self.references.train.condition == "number":
            return [float(number) for number in labels[:, 0]]
        ids = torch.tensor(_ids_of_classes(pipeline, names))
        return [ids[has].tolist() for has in labels]


def evaluate(config: EvaluationConfig) -> Results:
    """Evaluate a saved pipeline and write the results; every process must call it. A signal raises `Stopped`.

    The scores of finished seeds are kept beside the output until all are done, so that the same command continues an
    interrupted evaluation. A `ValueError` names an option that is wrong, or does not fit the model or the data, or another
    evaluation that is writing the same results.
    """
    output, processes = Path(config.output), init_distributed(config.num_threads)
    with OutputLock(output, processes, option="output", file_name=output.stem) as lock:
        lock.take()
        return _evaluate(config, processes)


def _evaluate(config: EvaluationConfig, processes: PartialState) -> Results:
    started = time.perf_counter()
    sampling, device = config.sampling, config.device or processes.device
    pipeline = load_pipeline(config.model, scheduler=sampling.scheduler, device=device, guide=sampling.guide)
    if not isinstance(pipeline, DCGANPipeline):
        sampling = replace(sampling, num_inference_steps=sampling.steps_for(pipeline))
    config = replace(config, sampling=replace(sampling, dtype=set_dtype(pipeline, sampling.dtype, processes)))
    if config.num_threads is None:
        choose_threads_in_use(network_of(pipeline))
    check_sampling(pipeline, config.sampling)
    check_channels(config.features, image_shape_of(pipeline)[0])
    extractor = build_extractor(
        config.features,
        inception_weights=config.inception_weights,
        device=pipeline.device,
        min_judge_accuracy=config.min_judge_accuracy,
    )
    data = data_options(config.data, config.model)
    with stop_requests("the evaluation stops after this batch") as stop:
        references = open_references(config, data, pipeline, extractor, processes)
        kept = KeptSeeds(Path(config.output), kept_key(config, pipeline, references))
        results = measure(config, data, pipeline, references, kept, stop=stop)
    results.protocol["seconds"]["in all, of this start"] = round(time.perf_counter() - started, 1)
    if processes.is_main_process:
        write_whole(Path(config.output), results.to_json())
        kept.forget()
    processes.wait_for_everyone()
    return results


def measure(
    config: EvaluationConfig,
    data: ReferenceDataConfig,
    pipeline: ImagePipeline,
    references: References,
    kept: KeptSeeds,
    *,
    stop: StopRequest,
    noise: bool = False,
) -> Results:
    """Score all seeds but those in the file `kept`, and assemble the results; every process must call it.

    A signal, which sets `stop`, raises `Stopped`; with `noise`, uniform noise is scored instead of samples.
    """
    processes = references.processes
    measurement = Measurement(config=config, references=references, stop=stop)
    score = measurement.score_noise if noise else measurement.score_seed
    scores = broadcast_from_main(kept.read, processes)
    for number in range(len(scores), config.num_seeds):
        scores.append(score(pipeline, config.sampling, number))
        if processes.is_main_process:
            kept.write(scores)
    return assemble(config, data, pipeline, references, scores)


def check_sampling(pipeline: ImagePipeline, sampling: SamplingConfig) -> None:
    """Raise a `ValueError` if the pipeline, with its scheduler, cannot be sampled with these options."""
    pipeline.check_inputs(all_conditions(pipeline)[:1] or None, **generation_options(pipeline, sampling))


def generation_options(pipeline: ImagePipeline, sampling: SamplingConfig) -> dict[str, Any]:
    """Options of the denoising, as keyword arguments of `generate`; a GAN has none, and a `ValueError` if one is given."""
    names = ("num_inference_steps", "guidance_scale", "guidance", "guidance_interval", "eta")
    if not isinstance(pipeline, DCGANPipeline):
        values = {name: getattr(sampling, name) for name in names}
        own = {"num_inference_steps": sampling.steps_for(pipeline), "guidance_scale": sampling.scale_for(pipeline)}
        return values | own
    for name in names:
        value = getattr(sampling, name)
        if value != getattr(SamplingConfig(), name):
            raise ValueError(f"--sampling.{name} is {value!r}: the model is a GAN and takes no steps, leave it out")
    return {}


def data_options(data: ReferenceDataConfig, model: str) -> ReferenceDataConfig:
    """Options of the real images; without a source, those of the run of the model, or a `ValueError` if it has none."""
    return data if data.source is not None else data_of_training(data, options_of_run(model))


def data_of_training(data: ReferenceDataConfig, trained: dict[str, Any]) -> ReferenceDataConfig:
    """Options of the data that a model was trained on, overridden by the given ones."""
    given = {name: value for name, value in asdict(data).items() if value != getattr(ReferenceDataConfig(), name)}
    known = asdict(ReferenceDataConfig()).keys() - {"on_bad_image", "max_bad_images"}
    trained = {name: value for name, value in trained.items() if name in known and value is not None}
    return ReferenceDataConfig(**{**trained, **given})


def open_references(
    config: ProtocolConfig,
    data: ReferenceDataConfig,
    pipeline: ImagePipeline,
    extractor: Extractor,
    processes: PartialState,
    dataset: Any = None,
) -> References:
    """Read the real images in the model's size, and summarize the split that samples are compared with.

    `dataset` is one of a program, see `hf_ddpm.data.given.load_given`; None = that of the options. A `ValueError` if the
    images cannot be read, do not fit the model or the extractor, or are too few.
    """
    channels, height, width = image_shape_of(pipeline)
    extractor.check_channels(channels)
    count = config.bits_per_dim_images
    if count is not None and (isinstance(pipeline, DCGANPipeline) or pipeline.is_distilled):
        what = "a GAN" if isinstance(pipeline, DCGANPipeline) else "distilled"
        raise ValueError(f"--bits_per_dim_images is {count}: the model is {what} and has no likelihood, leave it out")
    data = decoded_for(data, pipeline)
    with processes.local_main_process_first():
        given = load_splits if dataset is None else partial(load_given, dataset)
        train, test = given(data, image_size=(height, width), channels=channels)
    split = _reference_split(config, train, test)
    check_classes(pipeline, split)
    options: dict[str, Any] = {"max_features": config.max_features, "reference_statistics": config.reference_statistics}
    summary = reference_summary(extractor, split, batch_size=BATCH_SIZE, processes=processes, progress=True, **options)
    return References(
        extractor=extractor,
        train=train,
        test=test,
        reference_split=config.reference_split,
        summary=summary,
        batch_size=BATCH_SIZE,
        processes=processes,
    )


class _Clock:
    """Sums the seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        last, self._last = self._last, time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + self._last - last


def _ids_of_classes(pipeline: ImagePipeline, names: list[str]) -> list[int]:
    """The model's id of each class of the data, matched by name, or by number if the model has no names."""
    if pipeline.id2label is None:
        return list(range(len(names)))
    ids = {name: label for label, name in pipeline.id2label.items()}
    return [ids[name] for name in names]


def check_classes(pipeline: ImagePipeline, images: ImageTable) -> None:
    """Refuse data with a class that the model does not know."""
    names, kind = images.class_names, condition_of(pipeline)
    if kind is None or names is None:
        return
    if kind != images.condition:
        raise ValueError(f"--data.condition is {images.condition!r}: the model takes {kind}, give the model's own data")
    if pipeline.id2label is None:
        count = pipeline.num_classes
        if count != len(names):
            found = f"the model has {count} classes without names and the data {len(names)}"
            raise ValueError(f"--data: {found}: give the model's own")
        return
    known = pipeline.id2label.values()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"--data: the model does not know class {unknown[0]!r}, only {', '.join(known)[:80]}: choose classes "
            "with --data.labels, or give the model's own data"
        )


def _reference_split(config: ProtocolConfig, train: ImageTable, test: ImageTable | None) -> ImageTable:
    """The split that samples are compared with; refuses options that do not fit the splits."""
    if config.num_images < MIN_IMAGES:
        raise ValueError(f"--num_images is {config.num_images}: density and coverage need at least {MIN_IMAGES}")
    if config.bits_per_dim_images is not None and test is None:
        raise ValueError("--bits_per_dim_images needs held-out images: name their split with --data.test_split")
    split = train if config.reference_split == "train" else test
    if split is None:
        raise ValueError("--reference_split is 'test': name the split with --data.test_split")
    if len(split) < MIN_IMAGES:
        name = config.reference_split
        raise ValueError(f"the {name} split of --data has {len(split)} images: the metrics need at least {MIN_IMAGES}")
    return split
