"""The page about the recipes of a sweep, from the content of its comparison.json: `comparison_markdown(facts)`.

Tables and grids are functions of their own, for pages that are written by hand (`hf_ddpm.experiments.page`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hf_ddpm.experiments.tables import MAIN_METRICS
from hf_ddpm.markdown import code_block, counted, mean_with_error, number, table, value_text

AXIS_NAMES = {
    "recipe": "recipe",
    "train_seed": "training seed",
    "scheduler": "sampler",
    "num_inference_steps": "steps",
    "guidance_scale": "s (w = s - 1)",
    "num_images": "images",
}
"""Axes of a comparison, and how a table calls them."""
SIDE_BY_SIDE = 4  # sample grids at most


def comparison_markdown(facts: Mapping[str, Any]) -> str:
    """The whole page; the same facts give the same text.

    Args:
        facts: the content of comparison.json, see `hf_ddpm.experiments.comparison.comparison_facts`.
    """
    parts = [
        f"# Comparison: {', '.join(facts['recipes'])}",
        about_measurements(facts),
        "## Measurements",
        samples_table(facts),
        *(f"- {note}" for note in facts["notes"]),
        *(f"![{figure.removesuffix('.png')}]({figure})" for figure in facts["figures"]),
        "## Training",
        training_table(facts),
        about_training(facts),
        f"![losses]({facts['losses']})",
    ]
    if any(run["samples"] is not None for run in facts["runs"]):
        parts += ["## Samples", "The last grid of each training, drawn as its run drew it at its end.", sample_grids(facts)]
    if class_table(facts):
        parts += ["## Classes", about_classes(facts), class_table(facts)]
    return "\n\n".join([*(part for part in parts if part), command_block(facts)]) + "\n"


def about_measurements(facts: Mapping[str, Any]) -> str:
    """What is the same for all measurements, and of what the errors are."""
    cells, counts = facts["cells"], list(dict.fromkeys(cell["num_images"] for cell in facts["cells"]))
    labels = facts["data_labels"]
    of = f", classes {', '.join(map(str, labels))}" if labels else ""
    fixed = [
        text.format(value_text(found[0]))
        for axis, text in (("scheduler", "{}"), ("num_inference_steps", "{} steps"), ("guidance_scale", "s = {}"))
        if len(found := _values(cells, axis)) == 1
    ]
    sampled = f"; sampled with {', '.join(fixed)}" if fixed else ""
    if any(run["kind"] == "GAN" for run in facts["runs"]):
        sampled += "; a GAN with one call of its network"
    seeds = counted(facts["num_seeds"], "sampling seed")
    return (
        f"{seeds} of {', '.join(f'{count:,}' for count in counts)} images each, against the "
        f"{facts['reference_split']} split of `{facts['data_source']}`{of} ({facts['reference_images']:,} images), "
        f"features: {facts['features']}{sampled}. {_about_errors(facts)}"
    )


def command_block(facts: Mapping[str, Any]) -> str:
    """The command that compares the same again."""
    return code_block(facts["command"], "bash")


def _about_errors(facts: Mapping[str, Any]) -> str:
    """Of what the errors are; one seed has none."""
    seeds, has_errors = facts["train_seeds"], facts["num_seeds"] > 1
    if len(seeds) == 1:
        one = f"Each recipe has one training run (training seed {seeds[0]})"
        if not has_errors:
            return f"{one}, which was sampled from once: the numbers have no errors."
        return f"{one}: the errors are standard errors over the sampling seeds, and say nothing of another training."
    of_one = "the error of one is over its sampling seeds, that" if has_errors else "the numbers of one have no errors, that"
    return f"Each recipe has {len(seeds)} training runs: {of_one} of a mean over the training runs."


def samples_table(facts: Mapping[str, Any]) -> str:
    """What each model is and scores, with means over several training seeds, floor and ceiling."""
    cells = facts["cells"]
    axes = ["recipe", *(axis for axis in AXIS_NAMES if axis != "recipe" and len(_values(cells, axis)) > 1)]
    known = {name for cell in cells for name in cell["metrics"]}
    metrics = [facts["distance"], *(name for name in MAIN_METRICS if name in known)]
    runs = {(run["recipe"], run["train_seed"]): run for run in facts["runs"]}
    rows = [[*(AXIS_NAMES[axis] for axis in axes), "parameters", "seconds an epoch", "network calls", *metrics]]
    for recipe in facts["recipes"]:
        for cell in (*cells, *facts["means"]):
            if cell["recipe"] == recipe:
                values = {axis: value_text(cell[axis]) for axis in axes}
                if "num_train_seeds" in cell:
                    values["train_seed"] = f"mean of {cell['num_train_seeds']}"
                run = runs.get((recipe, cell["train_seed"]))  # None = a mean over several
                costs = ["", ""] if run is None else [run_fact(run, name) for name in ("parameters", "seconds_per_epoch")]
                found = (cell["metrics"].get(name) for name in metrics)
                rows.append([*values.values(), *costs, value_text(cell["network_calls"]), *(_measured(it) for it in found)])
    for count in _values(cells, "num_images"):
        for bound, what in (("floor", "real images"), ("ceiling", "uniform noise")):
            values = [bound_value(facts, bound, name, count) for name in metrics]
            if any(value is not None for value in values):
                shown = (
                    count if bound == "ceiling" else next(c["floor_num_images"] for c in cells if c["num_images"] == count)
                )
                blanks = [""] * (len(axes) + 2)
                rows.append([f"{what} ({shown:,})", *blanks, *map(number, values)])
    return table(rows[0], rows[1:], compact=True)


def training_table(facts: Mapping[str, Any]) -> str:
    """What training each model took."""
    several = len(facts["train_seeds"]) > 1
    seed = [AXIS_NAMES["train_seed"]] if several else []
    rows = [["recipe", *seed, "steps", "images seen", "training time", "final loss"]]
    for run in facts["runs"]:
        shown = [run_fact(run, name) for name in ("steps", "images_seen", "training_seconds", "final_loss")]
        rows.append([run["recipe"], *([str(run["train_seed"])] if several else []), *shown])
    return table(rows[0], rows[1:], compact=True)


def about_training(facts: Mapping[str, Any]) -> str:
    """What the numbers of the training mean, and where they were measured."""
    places = list(dict.fromkeys(_place(run) for run in facts["runs"]))
    lines = [f"Trained on {'; '.join(places)}."]
    if facts["train_minutes"] is not None:
        lines.append(
            f"Each recipe was trained for as many steps as it makes in {facts['train_minutes']:g} minutes on this machine, "
            "by the steps that were timed beforehand; another machine makes other numbers of steps."
        )
    lines.append(
        "The time is that of the optimizer steps, without sample grids, held-out losses and checkpoints; that of an epoch "
        "is by the median speed. The final loss is the mean of the last logged steps; losses of unlike objectives do not "
        "compare."
    )
    if any(run["kind"] == "GAN" for run in facts["runs"]):
        lines.append("The parameters of a GAN are those of its generator; d and g are the losses of its two networks.")
    return " ".join(lines)


def sample_grids(facts: Mapping[str, Any], folder: str = "") -> str:
    """The sample grids of the runs side by side.

    Args:
        facts: see `comparison_markdown`.
        folder: of the comparison, before the paths of the pictures, as `linear_cosine/`.
    """
    several, runs = len(facts["train_seeds"]) > 1, [run for run in facts["runs"] if run["samples"] is not None]
    blocks = []
    columns = -(-len(runs) // max(1, -(-len(runs) // SIDE_BY_SIDE)))  # so that the lines are about equally long
    for start in range(0, len(runs), columns or 1):
        part = runs[start : start + columns]
        names = [f"{run['recipe']}, seed {run['train_seed']}" if several else run["recipe"] for run in part]
        pictures = [f"![samples of {name}]({folder}{run['samples']})" for name, run in zip(names, part, strict=True)]
        blocks.append(table(names, [pictures], compact=True))
    return "\n\n".join(blocks)


def class_table(facts: Mapping[str, Any]) -> str:
    """The distance of each class, a column a measurement; "" = no measurement has classes."""
    distance, cells = facts["distance"], [cell for cell in facts["cells"] if cell["per_class"]]
    classes = list(dict.fromkeys(label for cell in cells for label in cell["per_class"]))
    cells = [cell for cell in cells if any(distance in metrics for metrics in cell["per_class"].values())]
    if not cells:
        return ""
    rows = [["class", *(_label(facts, cell) for cell in cells), "real images"]]
    for label in classes:
        found = [cell["per_class"].get(label, {}).get(distance) for cell in cells]
        floor = next((it["floor"] for it in found if it is not None and it["floor"] is not None), None)
        rows.append([label, *(_measured(it) for it in found), number(floor)])
    return table(rows[0], rows[1:], compact=True)


def about_classes(facts: Mapping[str, Any]) -> str:
    """What the table of the classes shows."""
    found = (it for cell in facts["cells"] for metrics in cell["per_class"].values() for it in metrics.values())
    counts = {it["n"] for it in found if it["n"] is not None}
    each = f" of {counts.pop()} images each" if len(counts) == 1 else ""
    return f"`{facts['distance']}` of the samples of a class{each} to the real images of that class."


def bound_value(facts: Mapping[str, Any], bound: str, metric: str, num_images: int) -> float | None:
    """A floor or ceiling of so many images, from whichever cell knows it."""
    found = (cell[bound].get(metric) for cell in facts["cells"] if cell["num_images"] == num_images)
    return next((value for value in found if value is not None), None)


def _parameters(run: Mapping[str, Any]) -> str:
    millions = run["parameters"] / 1e6
    return f"{millions:.2f} M" if millions >= 0.1 else f"{millions:.2g} M"


def _final_loss(run: Mapping[str, Any]) -> str:
    losses = run["final_losses"]
    return ", ".join(f"{name.removesuffix('_loss')} {it:.4g}" if "_" in name else f"{it:.4g}" for name, it in losses.items())


RUN_FACTS = {
    "parameters": _parameters,
    "seconds_per_epoch": lambda run: number(run["seconds_per_epoch"], 3),
    "steps": lambda run: f"{run['steps']:,}",
    "images_seen": lambda run: f"{run['images_seen']:,}",
    "training_seconds": lambda run: duration(run["training_seconds"]),
    "final_loss": _final_loss,
}
"""How a page shows what a training took, by name."""


def run_fact(run: Mapping[str, Any], name: str) -> str:
    """A fact of a run as a page shows it; `name` is of `RUN_FACTS`."""
    return RUN_FACTS[name](run)


def duration(seconds: float) -> str:
    """A time in seconds as it is read: `3 min 12 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _place(run: Mapping[str, Any]) -> str:
    threads, processes = run["num_threads"], run["num_processes"]
    return ", ".join(
        [
            run["gpu"] or run["processor"] or "an unknown processor",
            counted(threads, "thread"),
            *([f"{processes} processes"] if processes > 1 else []),
        ]
    )


def _values(cells: Iterable[Mapping[str, Any]], axis: str) -> list[Any]:
    return list(dict.fromkeys(cell[axis] for cell in cells if cell[axis] is not None))


def _label(facts: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """A measurement by its recipe and what else varies, as `digits, s = 1.5`."""
    short = {"train_seed": "seed", "scheduler": "", "num_inference_steps": "steps", "guidance_scale": "s", "num_images": "n"}
    varying = [axis for axis in short if len(_values(facts["cells"], axis)) > 1 and cell[axis] is not None]
    return ", ".join(
        [cell["recipe"], *(f"{short[axis]} = {value_text(cell[axis])}".removeprefix(" = ") for axis in varying)]
    )


def _measured(values: Mapping[str, Any] | None) -> str:
    return "" if values is None else mean_with_error(values["mean"], values["stderr"])
