"""Classify real images with a diffusion model: `results = classify(config)`, a measure of a model without a judge."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from accelerate import PartialState

from hf_ddpm.data.load_splits import load_splits
from hf_ddpm.data.table import ImageTable
from hf_ddpm.evaluation.classifier_options import ClassifierConfig
from hf_ddpm.evaluation.classifier_report import ClassifierResults, assemble, write_report
from hf_ddpm.evaluation.diffusion_classifier import Decision, decide
from hf_ddpm.evaluation.protocol import check_classes, data_options
from hf_ddpm.heldout_metrics import check_images
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.distributed import any_process_stopped, gather, init_distributed, shard
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.runtime.signals import Stopped, StopRequest, stop_requests
from hf_ddpm.runtime.threads import choose_threads_in_use
from hf_ddpm.sampling import decoded_for, image_shape_of, load_pipeline


def classify(config: ClassifierConfig) -> ClassifierResults:
    """Classify images and write the results with their report; every process must call it. A signal raises `Stopped`.

    A `ValueError` names an option that is wrong, or does not fit the model or the data.
    """
    output, processes, started = Path(config.output), init_distributed(config.num_threads), time.perf_counter()
    with OutputLock(output, processes, option="output", file_name=output.stem) as lock:
        lock.take()
        pipeline = load_classifier(config.model, config.device or processes.device)
        if config.num_threads is None:
            choose_threads_in_use(pipeline.unet)
        images = load_images(config, pipeline, processes)
        with stop_requests("classifying ends after this batch") as stop:
            decisions = decide_all(config, pipeline, images, processes, stop)
        results = assemble(config, pipeline, images, decisions, processes, seconds=time.perf_counter() - started)
        if processes.is_main_process:
            write_report(results, config, images)
        processes.wait_for_everyone()
    return results


def load_classifier(model: str, device: str | torch.device) -> CFGDDPMPipeline:
    """Load a pipeline in float32; a `ValueError` if it is not conditional on one class of several."""
    pipeline = load_pipeline(model, device=device)
    if not isinstance(pipeline, CFGDDPMPipeline) or pipeline.condition != "class":
        raise ValueError(f"model is {model!r}: it is not conditional on the class, give a diffusion model that is")
    if pipeline.is_distilled:
        raise ValueError(f"model is {model!r}: it was distilled and does not denoise at all timesteps, give its teacher")
    if (pipeline.num_classes or 0) < 2:
        raise ValueError(f"model is {model!r}: it has a single class, so there is nothing to choose from")
    return pipeline


def load_images(config: ClassifierConfig, pipeline: CFGDDPMPipeline, processes: PartialState) -> ImageTable:
    """The images of the split, with the classes of the model; a `ValueError` if they do not fit the model."""
    data = data_options(config.data, config.model)
    if config.split == "test" and data.test_split is None:
        raise ValueError("--data.test_split is None: name the held-out split, or add --split train")
    channels, *size = image_shape_of(pipeline)
    with processes.local_main_process_first():
        train, test = load_splits(decoded_for(data, pipeline), image_size=(size[0], size[1]), channels=channels)
    images = train if config.split == "train" or test is None else test
    check_classes(pipeline, images)
    if pipeline.id2label is not None:
        images = images.in_class_order(list(pipeline.id2label.values()))
    check_images(pipeline, images, 1, config.seed)
    return images


def decide_all(
    config: ClassifierConfig, pipeline: CFGDDPMPipeline, images: ImageTable, processes: PartialState, stop: StopRequest
) -> list[Decision]:
    """Decisions about the images, which the processes share, in their order."""
    count = min(len(images), config.num_images or len(images))
    positions = torch.arange(count) * len(images) // count
    mine, largest_share = positions[shard(count, processes)], math.ceil(count / processes.num_processes)
    decisions: list[Decision] = []
    at_once = max(1, config.batch_size // 8)  # each is denoised for several classes, and a signal waits for them
    with Progress("classifying", len(mine), "image") as bar:
        for start in range(0, largest_share, at_once):  # equally often in every process
            part = mine[start : start + at_once]
            if len(part) > 0:
                decisions += decide(config, pipeline, images, part)
            bar.advance(len(part))
            if number_of_signal := any_process_stopped(stop, processes):
                raise Stopped(number_of_signal, "stopped, nothing is written; fewer --num_images take less time")
    return gather(decisions, processes)
