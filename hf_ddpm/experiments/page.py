"""Comparisons as pages: `render(template, {"mnist": Comparison(facts, "mnist/")})` fills tables and numbers into Markdown.

A handwritten page is a Jinja template in which each comparison has the name of its folder:

    {{ mnist.about }} {{ mnist.command }}           how it was measured: seeds, images, reference; and the command
    {{ mnist.table }} {{ mnist.training_table }}    what was measured, and the cost of each training
    {{ mnist.class_table }} {{ mnist.samples }}     the distance of each class, and the sample grids side by side
    {{ mnist.run("digits").parameters }}            of a training run: steps, images_seen, training_seconds, final_loss, ...
    {{ mnist.metric("digits", "fd_judge") }}        a metric with its error, if a single measurement has it
    {{ mnist.metric("digits", "fd_judge", guidance_scale=1.5, class_name="3") }}    train_seed=0 = of one training
    {{ mnist.real("fd_judge") }} {{ mnist.noise("recall") }}    what real images and noise score
    {{ mnist.verdict("a", "b", "fd_judge") }}       is it lower or higher with a than with b, or undecided: see `Verdict`
    {{ mnist.verdict_table("b", "fd_judge", "recall") }}    the verdicts on all other recipes against b
    {% set part = mnist.select("a", "b", guidance_scale=1.5) %}    a comparison of these alone

With several training seeds, tables and numbers are means over the trainings, with standard errors over them; costs are
medians.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, StrictUndefined, TemplateSyntaxError, UndefinedError

from hf_ddpm.experiments.facts import ComparisonFacts, TrainingFacts
from hf_ddpm.experiments.options import SHORT_NAMES
from hf_ddpm.experiments.tables import MAIN_METRICS, MEAN, SweepRow, bound_rows, metric_text
from hf_ddpm.experiments.verdict import Verdict
from hf_ddpm.markdown import code_block, counted, duration, escaped, number, table, value_text
from hf_ddpm.results import MetricValue
from hf_ddpm.text import printable

AXIS_NAMES = {
    "recipe": "recipe",
    "train_seed": "training seed",
    "scheduler": "scheduler",
    "num_inference_steps": "steps",
    "guidance_scale": "s (w = s - 1)",
    "guidance": "guidance",
    "guidance_interval": "guided t / T",
    "num_images": "images",
}
"""Axes of a comparison, and their names in a table."""
SIDE_BY_SIDE = 4
"""Most sample grids in one row."""

Value = TypeVar("Value")


def comparison_page(facts: ComparisonFacts) -> str:
    """The page beside a comparison.json; the same facts give the same text."""
    template = Path(__file__).with_name("comparison.md.j2").read_text(encoding="utf-8")
    return render(template, {"facts": facts, "comparison": Comparison(facts)})


def render(template: str, names: Mapping[str, Any]) -> str:
    """Fill Jinja expressions of these names into Markdown; a ValueError names one that is wrong, unknown or ambiguous."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    try:
        return printable(environment.from_string(template).render(names))
    except TemplateSyntaxError as error:
        raise ValueError(f"the template, line {error.lineno}: {error.message}") from error
    except (UndefinedError, TypeError) as error:
        raise ValueError(f"the template: {error}") from error


def read_comparisons(folder: Path) -> dict[str, Comparison]:
    """The comparison in each sub-folder with a comparison.json, by its name; ValueError: a file is damaged."""
    found = {}
    for path in sorted(Path(folder).glob("*/comparison.json")):
        name = path.parent.name
        try:
            found[name] = Comparison(ComparisonFacts.from_json(path.read_text(encoding="utf-8")), f"{name}/")
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    return found


@dataclass(frozen=True)
class Comparison:
    """A comparison as a page shows it."""

    facts: ComparisonFacts
    folder: str = ""
    """Of the comparison, before the paths of its pictures, as `mnist/`."""

    @property
    def about(self) -> str:
        """What all measurements have in common, and what the errors are over."""
        facts = self.facts
        classes = ", ".join(map(str, facts.data_labels or ()))
        labels = f", {'classes' if len(facts.data_labels) > 1 else 'class'} {classes}" if facts.data_labels else ""
        fixed = [
            text.format(value_text(self._values(axis)[0]))
            for axis, text in (("scheduler", "{}"), ("num_inference_steps", "{} steps"), ("guidance_scale", "s = {}"))
            if len(self._values(axis)) == 1
        ]
        sampled = f"; sampled with {', '.join(fixed)}" if fixed else ""
        sampled += "; a GAN with one network call" if self.has_gan else ""
        *others, most = map(value_text, self._values("num_images"))
        counts = f"{', '.join(others)} and {most}" if others else most
        return (
            f"{counted(facts.num_seeds, 'sampling seed')} of {counts} images each, compared with the "
            f"{facts.reference_split} split of `{facts.data_source}`{labels} ({facts.reference_images:,} images) in "
            f"{facts.features} features{sampled}. {self._about_errors()}"
        )

    @property
    def command(self) -> str:
        """The command that repeats the comparison, as a code block."""
        return code_block(self.facts.command, "bash")

    @property
    def table(self) -> str:
        """Size, cost and metrics of each model, real images and noise."""
        facts = self.facts
        axes = ["recipe", *self._varying_axes]
        metrics = self.main_metrics
        header = [*(AXIS_NAMES[axis] for axis in axes), "parameters", "seconds per epoch", "network calls", *metrics]
        rows = [self._table_row(row, axes, metrics) for name in facts.recipes for row in self._rows if row.recipe == name]
        for what, count, bounds in bound_rows(facts.cells, metrics):
            rows.append([f"{what} ({count:,})", *[""] * (len(axes) + 2), *map(number, bounds)])
        return table(header, rows)

    @property
    def main_metrics(self) -> list[str]:
        """Names of the metrics of the table."""
        known = {name for cell in self.facts.cells for name in cell.metrics}
        return [self.facts.distance, *(name for name in MAIN_METRICS if name in known)]

    @property
    def training_table(self) -> str:
        """Cost and final loss of the training of each recipe."""
        names = ("steps", "images_seen", "training_seconds", "final_loss")
        texts = {recipe: self.run(recipe) for recipe in self.facts.recipes}
        rows = [[recipe, *(its[name] for name in names)] for recipe, its in texts.items()]
        return table(["recipe", "steps", "images seen", "training time", "final loss"], rows)

    @property
    def samples(self) -> str:
        """The sample grids of the runs side by side."""
        runs = [run for run in self.facts.runs if run.samples is not None]
        lines = max(1, math.ceil(len(runs) / SIDE_BY_SIDE))
        columns = max(1, math.ceil(len(runs) / lines))  # so that the lines are about equally long
        blocks = []
        for start in range(0, len(runs), columns):
            part = runs[start : start + columns]
            names = [f"{run.recipe}, seed {run.train_seed}" if self._several_trainings else run.recipe for run in part]
            pictures = [f"![samples of {name}]({self.folder}{run.samples})" for name, run in zip(names, part, strict=True)]
            blocks.append(table(names, [pictures]))
        return "\n\n".join(blocks)

    @property
    def class_table(self) -> str:
        """The distance of each class, one column per measurement; "" = no measurement has classes."""
        distance = self.facts.distance
        measured = [row for row in self._rows if any(distance in metrics for metrics in row.per_class.values())]
        rows = []
        for label in dict.fromkeys(label for row in measured for label in row.per_class):
            found = [row.per_class.get(label, {}).get(distance) for row in measured]
            floor = next((value.floor for value in found if value is not None and value.floor is not None), None)
            rows.append([escaped(label), *map(metric_text, found), number(floor)])
        return table(["class", *map(self._column, measured), "real images"], rows) if rows else ""

    @property
    def images_per_class(self) -> int | None:
        """Images per class; None = they differ."""
        counts = {value.n for cell in self.facts.cells for its in cell.per_class.values() for value in its.values()} - {None}
        return counts.pop() if len(counts) == 1 else None

    @property
    def has_gan(self) -> bool:
        return any(run.kind == "GAN" for run in self.facts.runs)

    @property
    def machines(self) -> list[str]:
        """Where the models were trained, as `a CPU, 1 thread`."""
        places = []
        for run in self.facts.runs:
            parts = [run.gpu or run.processor or "an unknown processor", counted(run.num_threads, "thread")]
            parts += [f"{run.num_processes} processes"] if run.num_processes > 1 else []
            places.append(", ".join(parts))
        return list(dict.fromkeys(places))

    def run(self, recipe: str, **axes: Any) -> dict[str, str]:
        """Cost of the trainings of a recipe, see `training_texts`; ValueError: there are none, as in `metric`."""
        runs = [run for run in self.facts.runs if _matches(run, {"recipe": recipe, **axes})]
        return training_texts(runs or [self._only(self.facts.runs, recipe=recipe, **axes)])

    def metric(self, recipe: str, name: str, *, class_name: str | None = None, **axes: Any) -> str:
        """A metric of a class (None = of all images) with its error; `axes` has values of the measurement that vary."""
        return metric_text(self._value(self._row(recipe=recipe, **axes), name, class_name))

    def verdict(
        self, first: str | Mapping[str, Any], second: str | Mapping[str, Any], name: str, *, class_name: str | None = None,
        **axes: Any,
    ) -> Verdict:  # fmt: skip
        """Whether a metric is lower or higher for `first` than for `second`, or undecided.

        Both are recipes, or values of axes such as {"recipe": "digits", "guidance_scale": 3}; `axes` applies to both.
        Settings of one recipe share their trainings, so their differences are taken within each.
        """
        rows = [self._row(**{**axes, **({"recipe": it} if isinstance(it, str) else it)}) for it in (first, second)]
        one, other = (self._value(row, name, class_name) for row in rows)
        if any(row.train_seed != MEAN for row in rows):
            return Verdict(difference=one.mean - other.mean, stderr=None)
        return Verdict.between(one.values, other.values, paired=rows[0].recipe == rows[1].recipe)

    def verdict_table(self, baseline: str, *names: str) -> str:
        """Verdicts on metrics of every other recipe against the baseline, at each setting of both; "" = there is none."""
        axes, rows = self._varying_axes, []
        for row in sorted(self._rows, key=lambda row: self.facts.recipes.index(str(row.recipe))):
            setting = {axis: getattr(row, axis) for axis in axes}
            if row.recipe != baseline and any(_matches(it, {"recipe": baseline, **setting}) for it in self._rows):
                verdicts = [str(self.verdict(str(row.recipe), baseline, name, **setting)) for name in names]
                rows.append([str(row.recipe), *map(value_text, setting.values()), *verdicts])
        return table([f"against {baseline}", *(AXIS_NAMES[axis] for axis in axes), *names], rows) if rows else ""

    def select(self, *recipes: str, **axes: Any) -> Comparison:
        """The comparison of these recipes, or all, where measurements have these values; ValueError: a recipe has none."""
        recipes = recipes or tuple(self.facts.recipes)
        found = [cell for cell in self.facts.cells if _matches(cell, axes)]
        for recipe in recipes:
            if all(cell.recipe != recipe for cell in found):
                self._only(self.facts.cells, recipe=recipe, **axes)  # raises
        cells = [cell for recipe in recipes for cell in found if cell.recipe == recipe]
        seeds = [axes["train_seed"]] if "train_seed" in axes else self.facts.train_seeds
        runs = [run for recipe in recipes for run in self.facts.runs if run.recipe == recipe and run.train_seed in seeds]
        facts = replace(self.facts, recipes=list(recipes), train_seeds=seeds, cells=cells, runs=runs)
        return replace(self, facts=facts)

    def real(self, name: str, **axes: Any) -> str:
        """Metric of as many real images."""
        return self._bound("floor", name, axes)

    def noise(self, name: str, **axes: Any) -> str:
        """Metric of as many images of uniform noise."""
        return self._bound("ceiling", name, axes)

    @property
    def _rows(self) -> list[SweepRow]:
        """What tables show."""
        return self.facts.means or self.facts.cells

    @property
    def _several_trainings(self) -> bool:
        return len(self.facts.train_seeds) > 1

    @property
    def _varying_axes(self) -> list[str]:
        """Of the rows of a table, without the recipe."""
        return [axis for axis in AXIS_NAMES if axis not in ("recipe", "train_seed") and len(self._values(axis)) > 1]

    def _values(self, axis: str) -> list[Any]:
        """Different values on an axis, without None."""
        return list(dict.fromkeys(value for cell in self.facts.cells if (value := getattr(cell, axis)) is not None))

    def _about_errors(self) -> str:
        seeds, several = self.facts.train_seeds, self.facts.num_seeds > 1
        if len(seeds) > 1:
            each = ", each of which counts with its mean over the sampling seeds" if several else ""
            listed = ", ".join(map(str, seeds))
            return (
                f"{len(seeds)} trainings per recipe (seeds {listed}): errors are standard errors over the trainings{each}."
            )
        one = f"One training run per recipe (training seed {seeds[0]})"
        if not several:
            return f"{one}, sampled once: the numbers have no errors."
        return f"{one}: errors are standard errors over the sampling seeds and do not cover another training run."

    def _table_row(self, row: SweepRow, axes: Sequence[str], metrics: Sequence[str]) -> list[str]:
        training = self.run(str(row.recipe))
        costs = [training["parameters"], training["seconds_per_epoch"], value_text(row.network_calls)]
        scores = [metric_text(row.metrics.get(name)) for name in metrics]
        return [*(value_text(getattr(row, axis)) for axis in axes), *costs, *scores]

    def _row(self, **axes: Any) -> SweepRow:
        """The only measurement with these values: of all trainings, unless a training seed is among them."""
        of_all = {"train_seed": MEAN} if self._several_trainings and "train_seed" not in axes else {}
        return self._only([*self.facts.cells, *self.facts.means], **axes, **of_all)

    def _value(self, row: SweepRow, name: str, class_name: str | None) -> MetricValue:
        return self._get(row.metrics if class_name is None else self._get(row.per_class, class_name), name)

    def _column(self, row: SweepRow) -> str:
        """A measurement by its recipe and the other axes that vary, as `digits, s = 1.5`."""
        texts = {axis: value_text(getattr(row, axis)) for axis in self._varying_axes if getattr(row, axis) is not None}
        named = (f"{SHORT_NAMES[axis]} = {text}" if axis in SHORT_NAMES else text for axis, text in texts.items())
        return ", ".join([str(row.recipe), *named])

    def _bound(self, bound: str, name: str, axes: Mapping[str, Any]) -> str:
        rows = [cell for cell in self.facts.cells if _matches(cell, axes)]
        known = {metric: number(value) for row in rows for metric, value in getattr(row, bound).items()}
        text = self._get(known, name)
        if any(number(getattr(row, bound).get(name)) not in ("", text) for row in rows):
            raise ValueError(f"{self.folder}: {name} depends on the number of images, give num_images=...")
        return text

    def _only(self, entries: Sequence[Any], **axes: Any) -> Any:
        """The only run or measurement with the requested values."""
        found = [entry for entry in entries if _matches(entry, axes)]
        if len(found) != 1:
            rest = found or entries
            values = {axis: {str(getattr(entry, axis, None)): None for entry in rest} for axis in AXIS_NAMES}
            there = "; ".join(f"{axis} {', '.join(known)}" for axis, known in values.items() if len(known) > 1)
            wanted = ", ".join(f"{axis}={value!r}" for axis, value in axes.items())
            raise ValueError(f"{self.folder}: {len(found)} match {wanted}, choose among {there}")
        return found[0]

    def _get(self, known: Mapping[str, Value], name: str) -> Value:
        if name not in known:
            raise ValueError(f"{self.folder}: unknown name {name!r}, give one of {', '.join(known)}")
        return known[name]


def training_texts(runs: Sequence[TrainingFacts]) -> dict[str, str]:
    """Cost and final loss of the trainings of a recipe as a page shows them, by name: the median, the mean of the loss."""
    millions = runs[0].parameters / 1e6
    losses = {
        name.removesuffix("_loss"): metric_text(MetricValue.over_seeds([run.final_losses[name] for run in runs], n=None))
        for name in runs[0].final_losses
    }
    epochs = [run.seconds_per_epoch for run in runs if run.seconds_per_epoch is not None]
    return {
        "parameters": f"{millions:.2f} M" if millions >= 0.1 else f"{millions:.2g} M",
        "seconds_per_epoch": number(statistics.median(epochs), 3) if epochs else "",
        "steps": value_text(statistics.median_low([run.steps for run in runs])),
        "images_seen": value_text(statistics.median_low([run.images_seen for run in runs])),
        "training_seconds": duration(statistics.median([run.training_seconds for run in runs])),
        "final_loss": ", ".join(loss if name == "loss" else f"{name} {loss}" for name, loss in losses.items()),
    }


def _matches(entry: Any, axes: Mapping[str, Any]) -> bool:
    return all(getattr(entry, axis, None) == value for axis, value in axes.items())
