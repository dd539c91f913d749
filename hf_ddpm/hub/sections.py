"""The sections of a model card as Markdown, each from the facts it shows; "" = nothing is known, the section is left out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from hf_ddpm.hub.facts import PipelineFacts, RunFacts, is_number
from hf_ddpm.markdown import code, code_block, escaped, table, without_paths

MAX_CLASSES_SHOWN = 100
# How `hf_ddpm.training.preview` draws the grid of samples.
GRID_COLUMNS, GRID_CLASSES, GRID_STEPS, GRID_GUIDANCE = 8, 10, 20, 1.5
PRIVATE_OPTIONS = ("output_dir", "resume", "num_threads", "hub")
"""Options that belong to a machine or a person and not to the model."""
LOCAL_SOURCE = "path/to/images"
DIGITS = "the 8 x 8 handwritten digits that scikit-learn brings along, `sklearn.datasets.load_digits`"

PAPERS = {
    "ddpm": "Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models*, [arXiv:2006.11239](https://arxiv.org/abs/2006.11239)",
    "guidance": "Ho & Salimans 2022, *Classifier-Free Diffusion Guidance*, [arXiv:2207.12598](https://arxiv.org/abs/2207.12598)",
    "v_prediction": "Salimans & Ho 2022, *Progressive Distillation for Fast Sampling of Diffusion Models* (v-prediction), "
    "[arXiv:2202.00512](https://arxiv.org/abs/2202.00512)",
    "improved": "Nichol & Dhariwal 2021, *Improved Denoising Diffusion Probabilistic Models* (cosine schedule, learned "
    "variance), [arXiv:2102.09672](https://arxiv.org/abs/2102.09672)",
    "min_snr": "Hang et al. 2023, *Efficient Diffusion Training via Min-SNR Weighting Strategy*, "
    "[arXiv:2303.09556](https://arxiv.org/abs/2303.09556)",
    "zero_snr": "Lin et al. 2023, *Common Diffusion Noise Schedules and Sample Steps are Flawed*, "
    "[arXiv:2305.08891](https://arxiv.org/abs/2305.08891)",
    "dpmsolver": "Lu et al. 2022, *DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models*, "
    "[arXiv:2211.01095](https://arxiv.org/abs/2211.01095)",
}


def summary(pipeline: PipelineFacts) -> str:
    """One sentence on what the model is."""
    if not pipeline.unet:
        return f"A diffusion pipeline of the class {code(pipeline.class_name)}."
    height, width = pipeline.image_size
    colour = {1: "grayscale ", 3: "RGB "}.get(pipeline.unet.get("in_channels"), "")
    if pipeline.num_classes is None:
        return f"An unconditional diffusion model (DDPM) that draws {colour}images of {height} x {width} pixels."
    guided = ", trained for classifier-free guidance" if pipeline.null_label is not None else ""
    what = f"{colour}images of {height} x {width} pixels in {_counted(pipeline.num_classes, 'class', 'classes')}"
    return f"A class-conditional diffusion model (DDPM) that draws {what}{guided}."


def local_title(pipeline: PipelineFacts) -> str:
    """Heading of a card whose repository has no name yet."""
    if not pipeline.unet:
        return pipeline.class_name
    height, width = pipeline.image_size
    kind = "unconditional" if pipeline.num_classes is None else "class-conditional"
    return f"{height} x {width} {kind} diffusion model"


def model_table(pipeline: PipelineFacts) -> str:
    """Size and make of the network and its scheduler."""
    rows = [("Pipeline", code(pipeline.class_name), "`model_index.json`")]
    if pipeline.unet:
        height, width = pipeline.image_size
        rows.append(
            (
                "Images",
                f"{height} x {width} pixels, {_counted(pipeline.unet.get('in_channels'), 'channel')}",
                "`unet/config.json`",
            )
        )
        if pipeline.num_classes is not None:
            rows.append(("Classes", str(pipeline.num_classes), "`unet/config.json`, `model_index.json`"))
    if pipeline.network_code is not None:
        rows.append(("Network", code(pipeline.unet.get("_class_name")), code(pipeline.network_code)))
    if pipeline.parameters is not None:
        rows.append(("Parameters of the U-Net", f"{pipeline.parameters:,}", "`unet/*.safetensors`"))
    scheduler = pipeline.scheduler
    if scheduler:
        kind = f"{code(scheduler.get('_class_name'))}, {scheduler.get('num_train_timesteps')} timesteps"
        details = [scheduler.get(name) for name in ("prediction_type", "beta_schedule")]
        kind += "".join(f", {code(detail)}" for detail in details if detail is not None)
        rows.append(("Scheduler", kind, "`scheduler/scheduler_config.json`"))
    return table(("", "", "from"), rows)


def samples_section(pipeline: PipelineFacts, run: RunFacts | None) -> dict[str, str] | None:
    """Text under the grid of samples."""
    if run is None or run.samples is None:
        return None
    # One row a class, and 8 x 8 where classes have no names.
    rows = min(len(pipeline.id2label), GRID_CLASSES) if pipeline.id2label else GRID_COLUMNS
    seed = run.config.get("seed", 0)
    guidance = "no guidance" if pipeline.null_label is None else f"guidance scale {GRID_GUIDANCE}"
    order = "one row a class" if pipeline.id2label else "row by row"
    if len(pipeline.id2label) > rows:
        order += f", the first {rows} classes"
    steps = min(GRID_STEPS, pipeline.scheduler.get("num_train_timesteps", GRID_STEPS))
    caption = (
        f"Drawn by the training run after step {int(run.samples.stem.removeprefix('step-'))} "
        f"({code(f'samples/{run.samples.name}')}): "
        f"{order}, DPM-Solver++, {steps} steps, {guidance}, seeds {seed} to {seed + rows * GRID_COLUMNS - 1}, none left out."
    )
    return {"alt": f"{rows * GRID_COLUMNS} samples", "caption": caption}


def classes_section(pipeline: PipelineFacts) -> str:
    """Ids and names."""
    if pipeline.num_classes is None or not pipeline.id2label:
        return ""
    shown = list(pipeline.id2label.items())[:MAX_CLASSES_SHOWN]
    text = table(("id", "name"), [(str(label), escaped(name)) for label, name in shown])
    if len(pipeline.id2label) > len(shown):
        text += f"\n\nThe first {len(shown)} of {len(pipeline.id2label)}; all are in `model_index.json`."
    return text


def data_section(run: RunFacts | None) -> str:
    """Where the images came from and how they were read."""
    if run is None:
        return ""
    source = {
        "digits": DIGITS,
        "hub": f"the data set {code(run.option('data', 'source'))} of the Hub",
        "local": "a local folder, which is not published with the model",
    }[run.source_kind]
    lines = [f"Trained on {source} (`data.source` in `config.yaml`)."]
    if count := number_of_images(run):
        lines.append(f"Images: {count:,} (`images_seen / epoch` in `metrics.jsonl`).")
    rows = [(code(f"data.{name}"), code(without_paths(value))) for name, value in _data_options(run)]
    return " ".join(lines) + "\n\n" + table(("option (`config.yaml`)", "value"), rows)


def _data_options(run: RunFacts) -> list[tuple[str, Any]]:
    hidden = ("source", "batch_size", "shuffle_buffer")
    options = (run.config.get("data") or {}).items()
    return [(name, value) for name, value in options if name not in hidden and value is not None]


def number_of_images(run: RunFacts) -> int | None:
    """Images of the train split: what was seen over the epochs that this took; None = not known."""
    line = run.last("epoch")
    if line is None or line["epoch"] <= 0 or not is_number(line.get("images_seen")):
        return None
    return round(line["images_seen"] / line["epoch"])


def training_section(run: RunFacts | None) -> str:
    """Options that matter, what came out, on which machine."""
    if run is None:
        return ""
    parts = [table(("", "", "from"), _option_rows(run)), "The files that are named here lie in the folder of the run."]
    if outcome := _outcome_rows(run):
        parts.append(table(("outcome", "", "from"), outcome))
    if machine := _machine_rows(run):
        parts.append(table(("machine", "", "from"), machine))
    return "\n\n".join(parts)


def _option_rows(run: RunFacts) -> list[tuple[str, str, str]]:
    wanted = {
        "Objective": ("objective", ("prediction_type", "loss", "loss_weighting", "snr_gamma", "class_dropout_prob")),
        "Forward process": ("schedule", ("beta_schedule", "num_train_timesteps", "variance_type")),
        "Optimizer": ("optim", ("optimizer", "learning_rate", "betas", "weight_decay", "max_grad_norm")),
        "Learning rate": ("optim", ("lr_scheduler", "lr_warmup_steps", "lr_milestones", "lr_gamma")),
        "Weights": ("ema", ("decay",)),
        "Network": ("model", ("architecture", "preset", "overrides")),
    }
    rows = []
    for title, (group, names) in wanted.items():
        options = {name: run.option(group, name) for name in names}
        given = [f"{name} {code(without_paths(value))}" for name, value in options.items() if value is not None]
        if given:
            prefix = "moving average, " if group == "ema" else ""
            rows.append((title, prefix + ", ".join(given), f"`config.yaml`, {code(group)}"))
    micro_steps = run.option("optim", "gradient_accumulation_steps") or 1
    if batch_size := run.option("data", "batch_size"):
        processes = run.environment.get("num_processes") or 1
        total = f"{batch_size * processes * micro_steps} images a step"
        if processes * micro_steps > 1:
            total += f" = {batch_size} x {processes} processes x {micro_steps} micro-steps"
        rows.append(("Batch", total, "`config.yaml`, `environment.json`"))
    for title, name in (("Precision", "mixed_precision"), ("Seed", "seed")):
        if run.config.get(name) is not None:
            rows.append((title, code(run.config[name]), "`config.yaml`"))
    return rows


def _outcome_rows(run: RunFacts) -> list[tuple[str, str, str]]:
    rows = []
    if line := run.last("images_seen"):
        epochs = f", {line['epoch']:.4g} epochs" if is_number(line.get("epoch")) else ""
        rows.append(("Length", f"{line['step']:,} steps, {line['images_seen']:,} images{epochs}", "`metrics.jsonl`"))
    if line := run.last("loss"):
        rows.append(
            ("Loss, mean since the logged step before", f"{line['loss']:.4g} at step {line['step']:,}", "`metrics.jsonl`")
        )
    held_out = sorted({name for line in run.metrics for name in line if name.startswith("test_")})
    for name in held_out:
        if line := run.last(name):
            rows.append((f"Held-out {code(name)}", f"{line[name]:.4g} at step {line['step']:,}", "`metrics.jsonl`"))
    speeds = sorted(line["images_per_second"] for line in run.metrics if is_number(line.get("images_per_second")))
    if speeds:
        rows.append(("Speed, median", f"{speeds[len(speeds) // 2]:,.0f} images a second", "`metrics.jsonl`"))
    return rows


def _machine_rows(run: RunFacts) -> list[tuple[str, str, str]]:
    environment = run.environment
    packages = {"python": environment.get("python"), **(environment.get("packages") or {})}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    gpu, processes = environment.get("gpu"), environment.get("num_processes")
    hardware = gpu or environment.get("processor")
    if hardware and processes:
        hardware += f", {_counted(processes, 'process', 'processes')}"
        if not gpu and environment.get("num_threads"):
            hardware += f" of {_counted(environment['num_threads'], 'thread')}"
    values = {"Hardware": hardware, "Versions": versions, "Commit of the code": environment.get("commit")}
    return [(name, escaped(value), "`environment.json`") for name, value in values.items() if value]


def evaluation_section(run: RunFacts | None) -> str:
    """One table for each file of results."""
    parts = []
    for name, result in ({} if run is None else run.results).items():
        rows = []
        for metric, values in result["metrics"].items():
            if is_number(values.get("mean")):
                bounds = [(result.get(bound) or {}).get(metric) for bound in ("floor", "ceiling")]
                rows.append((code(metric), _mean(values), _number(values.get("n")), *(_number(bound) for bound in bounds)))
        if rows:
            header = ("metric", "mean ± standard error", "n", "floor", "ceiling")
            parts += [f"From {code(f'results/{name}.json')}:", table(header, rows)]
            protocol = without_paths(result.get("protocol") or {})
            if protocol:
                lines = "\n".join(f"- {escaped(key)}: {code(value)}" for key, value in protocol.items() if value is not None)
                parts.append(f"<details><summary>How it was measured</summary>\n\n{lines}\n\n</details>")
    return "\n\n".join(parts)


def _mean(values: dict[str, Any]) -> str:
    error = f" ± {values['stderr']:.2g}" if is_number(values.get("stderr")) else ""
    return f"{values['mean']:.4g}{error}"


def _counted(count: Any, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _number(value: Any) -> str:
    return f"{value:.6g}" if is_number(value) else ""


def limits_section(pipeline: PipelineFacts, run: RunFacts | None) -> str:
    """What the model cannot do, and what nobody has checked."""
    lines = []
    if pipeline.unet:
        height, width = pipeline.image_size
        knows = "the classes above" if pipeline.id2label else "its classes" if pipeline.num_classes else "no classes"
        lines.append(f"It draws {height} x {width} pixels and no other size, knows {knows} and takes no text.")
    if run is not None:
        seen, count = run.last("images_seen"), number_of_images(run)
        if seen and count:
            lines.append(
                f"It has learnt from {count:,} images, each shown about {seen['images_seen'] / count:.3g} times in "
                f"{seen['step']:,} steps (`metrics.jsonl`): what is rare among them or absent, it draws badly or not. "
                + _copying(run)
            )
        if not run.results:
            lines.append("The quality of its samples was not measured; the losses above do not tell it.")
    else:
        lines.append("How it was trained, and on what, is not recorded beside it.")
    lines.append(
        "It repeats the biases of its data, and their terms may bind what is done with it: look both up at the source. No "
        "licence has been named for the weights."
    )
    return "\n".join(f"- {line}" for line in lines)


def _copying(run: RunFacts) -> str:
    """What was measured about samples that copy training images."""
    name = "nearest_train_distance"
    for file, result in run.results.items():
        mean, floor = (result["metrics"].get(name) or {}).get("mean"), (result.get("floor") or {}).get(name)
        if is_number(mean) and is_number(floor):
            return (
                f"Samples lie {mean:.4g} from their nearest training image, test images {floor:.4g} (root mean square over "
                f"pixels in [0, 1], {code(f'results/{file}.json')}): much nearer would be a sign of copying."
            )
    return "Whether samples copy training images was not measured."


def reproduce_section(run: RunFacts | None) -> str:
    """The resolved options as a recipe, and the commands."""
    if run is None:
        return ""
    options = {name: value for name, value in run.config.items() if name not in PRIVATE_OPTIONS}
    labels = (options.get("data") or {}).get("labels")
    options = without_paths(options)
    if "data" in options:
        options["data"]["labels"] = labels  # names of classes, whatever they look like
        if run.source_kind == "local":
            options["data"]["source"] = LOCAL_SOURCE
    parts = []
    if command := _training_command(run):
        parts += [
            "Trained with (`environment.json`; of a path on that machine its last part is shown):",
            code_block(command, "bash"),
        ]
    parts += ["The same options, resolved, as `recipe.yaml`:", code_block(yaml.safe_dump(options, sort_keys=False), "yaml")]
    parts.append(code_block("accelerate launch train_scripts/train.py --config recipe.yaml --output_dir runs/again", "bash"))
    return "\n\n".join(parts)


def _training_command(run: RunFacts) -> str | None:
    """The recorded command line, unless a program of somebody's own called `train`."""
    arguments = [str(argument) for argument in run.environment.get("command") or []]
    if not arguments or Path(arguments[0]).parts[-2:] != ("train_scripts", "train.py"):
        return None
    processes = run.environment.get("num_processes") or 1
    launcher = "python" if processes == 1 else f"torchrun --nproc_per_node {processes}"
    return f"{launcher} train_scripts/train.py {shlex.join(without_paths(arguments[1:]))}".rstrip()


def references_section(pipeline: PipelineFacts, run: RunFacts | None) -> str:
    """Papers of what the model and its card make use of."""
    if not pipeline.unet:
        return ""
    scheduler = pipeline.scheduler
    improved = scheduler.get("beta_schedule") == "squaredcos_cap_v2" or "learned" in str(scheduler.get("variance_type"))
    used = {
        "ddpm": True,
        "guidance": pipeline.null_label is not None,
        "v_prediction": scheduler.get("prediction_type") == "v_prediction",
        "improved": improved,
        "min_snr": run is not None and run.option("objective", "loss_weighting") == "min_snr",
        "zero_snr": bool(scheduler.get("rescale_betas_zero_snr")),
        "dpmsolver": pipeline.is_ours,
    }
    return "\n".join(f"- {paper}" for name, paper in PAPERS.items() if used[name])
