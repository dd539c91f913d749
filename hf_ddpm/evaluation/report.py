"""Assemble the scores of the seeds into results with their protocol, and write the table, the picture and the card."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hf_ddpm.commandline.commands import shell_command
from hf_ddpm.evaluation.features import weights_digest
from hf_ddpm.evaluation.kept_seeds import SeedScores
from hf_ddpm.evaluation.options import EvaluationConfig, ProtocolConfig, ReferenceDataConfig
from hf_ddpm.evaluation.references import Bound, References, nearest_positions
from hf_ddpm.markdown import code_block, escaped, interval_text, mean_with_error, number, table, value_text
from hf_ddpm.results import ClassMetricValue, MetricValue, Results
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.sampling import ImagePipeline, network_of
from hf_ddpm.text import printable

LOSS_IMAGES = 512
"""Images per split for the denoising loss."""


def assemble(
    config: EvaluationConfig,
    data: ReferenceDataConfig,
    pipeline: ImagePipeline,
    references: References,
    scores: list[SeedScores],
) -> Results:
    """Means and standard errors over the seeds, beside the scores of real images and noise; every process must call it."""
    count = f"{config.num_images // 1000}k" if config.num_images % 1000 == 0 else str(config.num_images)
    names = {"fid": f"fid{count}_{references.reference_split}"}
    floor, ceiling = references.floor(config.num_images), references.ceiling(config.num_images)
    classes = scores[0].per_class
    # With the class prior of the train split the number differs per class.
    class_images = config.num_images // max(1, len(classes)) if config.class_prior == "balanced" else None
    seconds = {name: round(sum(score.seconds.get(name, 0) for score in scores), 1) for name in scores[0].seconds}
    return Results(
        metrics={
            names.get(name, name): MetricValue.over_seeds(
                [score.metrics[name] for score in scores], n=_images_of(name, config, references)
            )
            for name in scores[0].metrics
        },
        floor={} if floor is None else {names.get(name, name): value for name, value in floor.metrics.items()},
        ceiling={names.get(name, name): value for name, value in ceiling.metrics.items()},
        per_class={
            label: {
                name: ClassMetricValue.over_seeds(
                    [score.per_class[label][name] for score in scores],
                    n=class_images,
                    floor=None if floor is None else floor.per_class.get(label, {}).get(name),
                )
                for name in classes[label]
            }
            for label in classes
        },
        notes=_notes(config, references, floor),
        protocol={
            **_describe(config, data, pipeline, references),
            "floor_num_images": None if floor is None else floor.num_images,
            "seconds": seconds,
        },
    )


def markdown_report(results: Results) -> str:
    """Results as Markdown: metrics beside real images and noise, metrics per class, notes and the command."""
    protocol = results.protocol
    how = "one call of a GAN"
    if "scheduler" in protocol:
        scale = protocol["guidance_scale"]
        how = f"{protocol['num_inference_steps']} steps of {protocol['scheduler']}, s = {scale:g} (w = {scale - 1:g})"
        how += f", {protocol['guidance']}" if "guidance" in protocol else ""
        how += ", guided away from a second network" if "guide_sha256" in protocol else ""
        if "guidance_interval" in protocol:
            how += f", {interval_text(protocol['guidance_interval'])}"
    about = (
        f"{len(protocol['seeds'])} seeds of {protocol['num_images']:,} images, {how}, against the "
        f"{protocol['reference_split']} split ({protocol['reference_images']:,} images). Real images are from the other "
        "split; noise is uniform."
    )
    rows = []
    for name, value in results.metrics.items():
        bounds = (number(bound.get(name)) for bound in (results.floor, results.ceiling))
        rows.append([name, mean_with_error(value.mean, value.stderr), value_text(value.n), *bounds])
    metrics = table(["metric", "mean ± standard error", "n", "real images", "noise"], rows)
    notes = "\n".join(f"- {note}" for note in results.notes)
    parts = [about, metrics, _class_table(results.per_class), notes, code_block(protocol["command"], "bash")]
    return printable("\n\n".join(part for part in parts if part) + "\n")


def write_report(results: Results, config: EvaluationConfig) -> list[Path]:
    """Write table and picture beside the results, and the model card if these are in the model's run; returns the paths."""
    from hf_ddpm.figures.measurements import plot_measurement

    output, model = Path(config.output), Path(config.model)
    paths = [output.with_suffix(".md"), output.with_suffix(".png")]
    write_whole(paths[0], markdown_report(results))
    write_whole(paths[1], lambda path: plot_measurement(results, path, title=config.model))
    if "scheduler" in results.protocol and write_card_of_run(output, model):
        paths.append(model / "README.md")
    return paths


def write_card_of_run(output: Path, model: Path) -> bool:
    """Write the card of a diffusion model again if `output` is among the results of its run; return whether it was."""
    from hf_ddpm.hub.card import try_write_card

    run = RunFolder.of(model)
    if run is None or run.results.resolve() != output.parent.resolve() or not run.has_published(model):
        return False
    return try_write_card(model, run.path)


def describe_samples(config: EvaluationConfig, pipeline: ImagePipeline) -> dict[str, Any]:
    """What the samples depend on beside the model, as the protocol says it."""
    sampling, denoising = config.sampling, {}
    if hasattr(pipeline, "scheduler"):  # not a GAN
        denoising = {
            "scheduler": type(pipeline.scheduler).__name__,
            "num_inference_steps": sampling.steps_for(pipeline),
            "guidance_scale": sampling.scale_for(pipeline),
            "eta": sampling.eta,
        }
        given = {name: getattr(sampling, name) for name in ("guidance", "guidance_interval", "guide")}
        saved = {name: value for name, value in pipeline.sampling_defaults.items() if name in given}
        denoising |= saved | {name: value for name, value in given.items() if value is not None}
        if pipeline.guide is not None:
            denoising["guide_sha256"] = weights_digest(pipeline.guide)
    seeds = [config.seed + number for number in range(config.num_seeds)]
    return {"seeds": seeds, "num_images": config.num_images, **denoising, "dtype": sampling.dtype}


def _describe(
    config: EvaluationConfig, data: ReferenceDataConfig, pipeline: ImagePipeline, references: References
) -> dict[str, Any]:
    """Everything needed to repeat the evaluation."""
    surroundings = describe_environment(pipeline.device, references.processes.num_processes)
    extractor = references.extractor
    return {
        "command": shell_command(surroundings["command"], references.processes.num_processes),
        "model": config.model,
        "model_sha256": weights_digest(network_of(pipeline)),
        **describe_samples(config, pipeline),
        "class_prior": _class_prior(config, pipeline, references),
        "features": extractor.name,
        "features_from": config.features,
        "features_sha256": extractor.digest,
        "preprocessing": extractor.preprocessing,
        "data_source": data.source,
        "data_labels": data.labels,
        "reference_split": config.reference_split,
        "reference_images": references.summary.num_images,
        "reference_fingerprint": references.reference.fingerprint,
        **{name: surroundings[name] for name in ("commit", "python", "packages", "processor", "device", "gpu")},
        "num_processes": surroundings["num_processes"],
        "num_threads": surroundings["num_threads"],
    }


def _class_prior(config: ProtocolConfig, pipeline: ImagePipeline, references: References) -> str | None:
    """From where the conditions of the samples are; None = they have none."""
    if not (references.train.class_names and pipeline.is_conditional):
        return None
    return config.class_prior if references.train.condition == "class" else "train"


def _notes(config: ProtocolConfig, references: References, floor: Bound | None) -> list[str]:
    """What a reader must know about the metrics."""
    notes, dim = [], references.extractor.dim
    if (smallest := min(config.num_images, references.summary.num_images)) <= dim:
        notes.append(
            f"{references.distance_name}: {smallest} images do not fill {dim} dimensions, so the distance is far above "
            "that of many images; compare it with those of equally many only"
        )
    if floor is None:
        notes.append("there is no floor: the data have no other split of at least 6 images")
    elif floor.num_images < config.num_images:
        other = "test" if references.reference_split == "train" else "train"
        notes.append(
            f"the floor is that of the {floor.num_images} images of the {other} split, and not of {config.num_images}"
        )
    return notes


def _images_of(name: str, config: ProtocolConfig, references: References) -> int | None:
    """Images behind one value of a metric."""
    if name.startswith("simple_loss"):
        table = references.train if name.endswith("train") else references.test
        return None if table is None else min(LOSS_IMAGES, len(table))
    if name.startswith("bits_per_dim"):
        return config.bits_per_dim_images
    return len(nearest_positions(config.num_images)) if name.startswith("nearest") else config.num_images


def _class_table(per_class: dict[str, dict[str, ClassMetricValue]]) -> str:
    """Metrics per class beside those of its real images; "" = no classes."""
    names = list(dict.fromkeys(name for metrics in per_class.values() for name in metrics))  # a class may lack some
    rows = []
    for label, metrics in per_class.items():
        found = [metrics.get(name) for name in names]
        cells = [(mean_with_error(it.mean, it.stderr), number(it.floor)) if it else ("", "") for it in found]
        rows.append([escaped(label), *itertools.chain(*cells)])
    header = ["class", *itertools.chain(*((name, "real images") for name in names))]
    return table(header, rows) if per_class else ""
