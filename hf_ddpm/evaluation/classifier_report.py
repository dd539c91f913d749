"""The decisions of a diffusion classifier as results, a table, and a picture of the images whose label it doubts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hf_ddpm.commandline.commands import shell_command
from hf_ddpm.data.table import ImageTable
from hf_ddpm.evaluation.classifier_options import ClassifierConfig
from hf_ddpm.evaluation.diffusion_classifier import Decision
from hf_ddpm.evaluation.features import weights_digest
from hf_ddpm.evaluation.report import write_card_of_run
from hf_ddpm.figures.grids import image_grid
from hf_ddpm.figures.view import to_view
from hf_ddpm.markdown import code_block, escaped, mean_with_error, number, table
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.results import ClassMetricValue, MetricValue, Results
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.text import printable

METRIC = "diffusion_classifier_accuracy"
MAX_SHOWN = 24
"""Doubted images in the picture and in the table; the results have all of them."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """An image for which another class than its label is preferred."""

    row: int
    """In the split, from 0."""
    label: str
    preferred: str
    margin: float
    """How much better the preferred class denoises it, see `Decision`."""
    margin_stderr: float | None


@dataclass(kw_only=True)
class ClassifierResults(Results):
    """Results of a diffusion classifier; the standard errors are those of a proportion."""

    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of images by their label and the preferred class."""
    doubted: list[Doubt] = field(default_factory=list)
    """The largest margin first."""


def assemble(
    config: ClassifierConfig,
    pipeline: CFGDDPMPipeline,
    images: ImageTable,
    decisions: Sequence[Decision],
    processes: PartialState,
    *,
    seconds: float,
) -> ClassifierResults:
    """Count the decisions."""
    names = _class_names(pipeline)
    right: dict[str, list[bool]] = {}
    confusion: dict[str, dict[str, int]] = {}
    for it in sorted(decisions, key=lambda decision: decision.label):
        label, preferred = names[it.label], names[it.preferred]
        right.setdefault(label, []).append(label == preferred)
        counts = confusion.setdefault(label, {})
        counts[preferred] = counts.get(preferred, 0) + 1
    doubted = sorted((it for it in decisions if it.preferred != it.label), key=lambda it: (-it.margin, it.position))
    surroundings = describe_environment(pipeline.device, processes.num_processes)
    recorded = ("commit", "python", "packages", "processor", "device", "gpu", "num_processes", "num_threads")
    return ClassifierResults(
        metrics={METRIC: MetricValue(**_proportion([it for of_class in right.values() for it in of_class]))},
        floor={},
        ceiling={},
        per_class={
            label: {METRIC: ClassMetricValue(floor=None, **_proportion(of_class))} for label, of_class in right.items()
        },
        confusion=confusion,
        doubted=[
            Doubt(
                row=it.position if images.rows is None else int(images.rows[it.position]),
                label=names[it.label],
                preferred=names[it.preferred],
                margin=it.margin,
                margin_stderr=it.margin_stderr,
            )
            for it in doubted
        ],
        protocol={
            "command": shell_command(surroundings["command"], processes.num_processes),
            "model": config.model,
            "model_sha256": weights_digest(pipeline.unet),
            "seeds": [config.seed],
            "num_images": len(decisions),
            "trials": config.trials,
            "keep": config.keep,
            "network_calls": statistics.fmean(it.network_calls for it in decisions),
            "data_source": config.data.source,
            "split": config.split,
            "split_fingerprint": images.fingerprint,
            **{name: surroundings[name] for name in recorded},
            "seconds": round(seconds, 1),
        },
    )


def write_report(results: ClassifierResults, config: ClassifierConfig, images: ImageTable) -> None:
    """Write results, table and, if a label is doubted, a picture, and the model card if the results are in its run."""
    output = Path(config.output)
    write_whole(output, results.to_json())
    write_whole(output.with_suffix(".md"), markdown_report(results))
    shown = results.doubted[:MAX_SHOWN]
    if shown:
        places = {int(row): place for place, row in enumerate(range(len(images)) if images.rows is None else images.rows)}
        pixels = images.images(torch.tensor([places[doubt.row] for doubt in shown])).permute(0, 2, 3, 1).numpy()
        rows = [f"{doubt.row}: {doubt.label}, or {doubt.preferred}?" for doubt in shown]
        picture = image_grid(to_view(pixels, images.value_range), columns=1, row_names=rows)
        write_whole(output.with_suffix(".png"), picture.save)
    write_card_of_run(output, Path(config.model))


def markdown_report(results: ClassifierResults) -> str:
    """Results as Markdown: accuracy, confusion, doubted images and the command."""
    protocol, accuracy = results.protocol, results.metrics[METRIC]
    about = (
        f"{protocol['num_images']:,} images of the {protocol['split']} split, classified by the class with which the model "
        f"denoises them best: {mean_with_error(100 * accuracy.mean, 100 * (accuracy.stderr or 0))} % right, "
        f"{protocol['network_calls']:,.0f} network calls an image."
    )
    classes = list(dict.fromkeys([*results.confusion, *(name for counts in results.confusion.values() for name in counts)]))
    rows = [
        [escaped(label), *(str(counts.get(name, "")) for name in classes), number(results.per_class[label][METRIC].mean)]
        for label, counts in results.confusion.items()
    ]
    confusion = table(["label", *(f"as {escaped(name)}" for name in classes), "accuracy"], rows)
    doubts = [
        [str(it.row), escaped(it.label), escaped(it.preferred), mean_with_error(it.margin, it.margin_stderr)]
        for it in results.doubted[:MAX_SHOWN]
    ]
    heading = f"Doubted labels, {len(results.doubted):,} in all; rows are counted from 0:"
    doubted = [heading, table(["row", "label", "preferred", "margin"], doubts)] if doubts else []
    return printable("\n\n".join([about, confusion, *doubted, code_block(protocol["command"], "bash")]) + "\n")


def _proportion(right: Sequence[bool]) -> dict[str, Any]:
    """The share of the right ones with its standard error, as arguments of a `MetricValue`."""
    share, count = sum(right) / len(right), len(right)
    return {"mean": share, "stderr": math.sqrt(share * (1 - share) / count), "n": count, "values": [share]}


def _class_names(pipeline: CFGDDPMPipeline) -> list[str]:
    """A name for each class id, each different."""
    names = pipeline.id2label or {}
    known = [names.get(label, str(label)) for label in range(pipeline.num_classes or 0)]
    return [name if known.count(name) == 1 else f"{name} ({label})" for label, name in enumerate(known)]
