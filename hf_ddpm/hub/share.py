"""A folder to share: a model, or its card alone, with results and the record of its run: `write_shared(model, folder, ...)`.

```
README.md  samples.png                                   the card
model_index.json  pipeline.py  unet/  scheduler/ ...     the model with the code of this version, unless the card is alone
results/*.json                                           measurements of the run, and what other weights change
config.yaml  environment.json  data.json  metrics.jsonl  samples/      what else the card is rendered from
```

Paths of this machine are shortened in all of it, and what a recipe does not publish is left out.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import hf_ddpm.pipeline
from hf_ddpm.hub.card import (
    EVAL_RESULTS,
    README,
    card_files,
    find_run,
    is_left_over,
    keeps_own,
    read_choices,
    settle_choices,
)
from hf_ddpm.hub.choices import CardChoices
from hf_ddpm.hub.contents import pipeline_files
from hf_ddpm.hub.facts import RunFacts, read_run
from hf_ddpm.markdown import without_paths
from hf_ddpm.pipeline import SAVED_CLASS
from hf_ddpm.results import MetricValue, Results
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.runtime.reading import read_json
from hf_ddpm.sampling import default_guidance_scale, generate, load_pipeline, resolve_labels
from hf_ddpm.saved_model import INDEX, class_name_of
from hf_ddpm.tuning_results import FILE as TUNING

Weights = Literal["float32", "float16"]


def write_shared(
    model: Path,
    folder: Path,
    *,
    weights: Weights | None = None,
    choices: CardChoices | None = None,
    compared_images: int | None = None,
) -> None:
    """Write a new folder to share.

    Args:
        model: a saved pipeline; the card and the record are of the run whose result it is, if there is one.
        folder: new or empty.
        weights: type in which the weights are stored; None = the card alone, without the model.
        choices: what the card says besides; None = as the card of the model.
        compared_images: images of the stored weights that are compared with those of the model, which
            `results/weights_TYPE.json` records; None = not compared.

    A ValueError: the model has no card, a choice does not fit, or the weights are beyond the range of the type.
    """
    run_dir = find_run(model)
    files = pipeline_files(model)
    # With the mistakes of a user, before anything is written.
    card = card_files(model, run_dir, choices=choices)
    keeps_readme = keeps_own(model, choices) or is_left_over(model, run_dir, choices)
    run = None if run_dir is None else read_run(RunFolder(run_dir))
    settled = settle_choices(choices, read_choices(model), run)

    def write(partial: Path) -> None:
        if weights is not None:
            for name, path in files.items():
                if name not in card and not name.startswith(EVAL_RESULTS):
                    _store(path, partial / name, weights)
            _update_code(partial)
            if compared_images is not None:
                results = compare_images(model, partial, weights=weights, num_images=compared_images)
                write_whole(RunFolder(partial).results / f"weights_{weights}.json", results.to_json())
        if run_dir is not None and run is not None:
            _write_record(RunFolder(run_dir), run, RunFolder(partial))
        described = model if weights is None else partial
        written = card_files(described, None if run_dir is None else partial, choices=settled)
        if keeps_readme:
            written[README] = files[README].read_bytes()
        for name, content in written.items():
            write_whole(partial / name, content)

    publish_directory(folder, write)


def _store(source: Path, target: Path, weights: Weights) -> None:
    """Copy a file of a model; weights get another type."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".safetensors":
        shutil.copyfile(source, target)
        return
    with safe_open(source, framework="pt") as opened:
        tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.to(getattr(torch, weights))
            if bool(tensor.isfinite().all()) and not bool(tensors[name].isfinite().all()):
                raise ValueError(f"--weights is {weights!r}: {source}: {name} is beyond its range, give float32")
    save_file(tensors, target, metadata)


def _update_code(folder: Path) -> None:
    """Give a copy of a model the code of this version, where its own is that of an earlier one."""
    index = read_json(folder / INDEX)
    if class_name_of(index) != SAVED_CLASS[1]:
        return
    for name in ("pipeline.py", "editing_pipeline.py"):
        shutil.copyfile(Path(hf_ddpm.pipeline.__file__).with_name(name), folder / name)
    write_whole(folder / INDEX, json.dumps({**index, "_class_name": SAVED_CLASS}, indent=2, sort_keys=True) + "\n")


def _write_record(run: RunFolder, facts: RunFacts, target: RunFolder) -> None:
    """Write what the card is rendered from: options, environment, data, log, samples and results of a run."""
    write_whole(target.config, facts.recipe)
    for source, written in ((run.environment, target.environment), (run.data, target.data)):
        if source.is_file():
            write_whole(written, _as_json(without_paths(read_json(source))))
    if run.metrics.is_file():
        lines = (json.dumps(line) + "\n" for line in run.read_metrics())
        write_whole(target.metrics, "".join(lines))
    if facts.samples is not None:
        write_whole(target.sample_grid(facts.samples[0]), facts.samples[1].read_bytes())
        if facts.grid is not None:
            write_whole(target.grid_settings, facts.grid.to_json())
    for name in facts.results:
        results = read_json(run.results / f"{name}.json")
        results["protocol"] = without_paths(results.get("protocol", {}))
        write_whole(target.results / f"{name}.json", _as_json(results))
    for name, tuning in facts.tunings.items():
        write_whole(target.results / name / TUNING, tuning.to_json())


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def compare_images(model: Path, other: Path, *, weights: Weights, num_images: int) -> Results:
    """The difference of the images of two models that have the same weights in different types, sampled as a call does
    without further options, with the usual guidance; in units of the pixels, such as 255ths."""
    pipelines = [load_pipeline(str(folder), device="cpu") for folder in (model, other)]
    first = pipelines[0]
    labels = resolve_labels(first, None, None, num_images)
    scale = default_guidance_scale(first)
    images = []
    for pipeline in pipelines:
        batches = generate(pipeline, class_labels=labels, guidance_scale=scale, progress=True)
        images.append(np.concatenate([batch.images for batch in batches]).astype(np.float64))
    differences = abs(images[0] - images[1])
    found = {
        "largest_pixel_difference": differences.max(),
        "mean_pixel_difference": differences.mean(),
        "equal_pixels": (differences == 0).mean(),
    }
    return Results(
        metrics={name: MetricValue.over_seeds([float(value)], n=num_images) for name, value in found.items()},
        floor={},
        ceiling={},
        notes=[f"Images of the weights in {weights} beside those of the model that was trained."],
        protocol={
            "weights": weights,
            "compared_with": without_paths(str(model)),
            "num_images": num_images,
            "first_seed": 0,
            "scheduler": type(first.scheduler).__name__,
            "num_inference_steps": first.default_steps,
            "guidance_scale": scale,
        },
    )
