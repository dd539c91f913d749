"""Pages written by hand whose numbers come from results: `render_page(template, {"linear_cosine": facts, ...})`.

A template is Markdown with placeholders, each of which begins with the name of a comparison:

    {{ linear_cosine.table }}                           what was measured, as a table
    {{ linear_cosine.training_table }}                  what the trainings took
    {{ linear_cosine.class_table }}                     the distance of each class
    {{ linear_cosine.samples }}                         the sample grids side by side
    {{ linear_cosine.about }}                           seeds, images, reference and sampling
    {{ linear_cosine.command }}                         what measured it, as a block of code
    {{ linear_cosine.digits.parameters }}               a fact of a run: steps, training_seconds, final_loss, ...
    {{ linear_cosine.digits.fd_judge }}                 a metric with its error, where one measurement has it
    {{ linear_cosine.digits[guidance_scale=1.5].fd_judge }}             of the measurement with this value on an axis
    {{ linear_cosine.digits[train_seed=0, guidance_scale=1.5].recall }} of one training; train_seed=mean is that of several
    {{ linear_cosine.digits[guidance_scale=1.5, class=3].fd_judge }}    of one class
    {{ linear_cosine.floor.fd_judge }} {{ linear_cosine.ceiling.recall }}  what real images and noise score
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_ddpm.experiments.comparison_page import (
    AXIS_NAMES,
    RUN_FACTS,
    about_measurements,
    bound_value,
    class_table,
    command_block,
    run_fact,
    sample_grids,
    samples_table,
    training_table,
)
from hf_ddpm.markdown import mean_with_error, number

FACTS = "comparison.json"
BOUNDS = ("floor", "ceiling")
BLOCKS = {
    "table": lambda facts, folder: samples_table(facts),
    "training_table": lambda facts, folder: training_table(facts),
    "class_table": lambda facts, folder: class_table(facts),
    "samples": sample_grids,
    "about": lambda facts, folder: about_measurements(facts),
    "command": lambda facts, folder: command_block(facts),
}
"""What stands for a whole comparison, from its facts and its folder."""
_BRACES = r"\{\{(.*?)\}\}"
# NAME.BLOCK, or NAME.RECIPE.FACT with [AXIS=VALUE, ...] behind the recipe.
_PLACEHOLDER = re.compile(r"(?P<name>[^.\s]+)\.(?:(?P<recipe>[^\[\]]+?)(?:\[(?P<where>[^\[\]]*)\])?\.)?(?P<fact>[\w-]+)")


def render_page(template: str, facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Put tables and values into the places of their names.

    Args:
        template: Markdown with placeholders, as above.
        facts: contents of comparison.json by the name of each comparison's folder, which lies beside the page.

    Returns:
        The page.

    Raises:
        ValueError: a placeholder names what is not there, or more than one value; it is quoted, with names that are near.
    """
    page = re.sub(_BRACES, lambda match: _resolve(match[1].strip(), facts), template, flags=re.DOTALL)
    # What is left of the template; a value, such as a command, may have braces of its own.
    for line in re.sub(_BRACES, "", template, flags=re.DOTALL).splitlines():
        if "{{" in line or "}}" in line:
            raise ValueError(f"the template: a placeholder has no end or no beginning, in {line.strip()[:80]!r}")
    return page


def read_comparisons(folder: Path) -> dict[str, dict[str, Any]]:
    """The facts of each comparison of which a sub-folder holds the comparison.json, by the name of the sub-folder.

    Raises:
        ValueError: a file is damaged.
    """
    found = {}
    for path in sorted(Path(folder).glob(f"*/{FACTS}")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if not (isinstance(facts, dict) and {"recipes", "runs", "cells", "means"} <= facts.keys()):
            raise ValueError(f"{path} is no comparison: take the file that train_scripts/sweep.py has written")
        found[path.parent.name] = facts
    return found


def _resolve(text: str, comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    match = _PLACEHOLDER.fullmatch(text)
    if match is None:
        raise ValueError(f"{{{{ {text} }}}}: write NAME.table, or NAME.RECIPE[AXIS=VALUE].METRIC")
    name, recipe, where, fact = match.group("name", "recipe", "where", "fact")
    _check_name(text, name, comparisons, "there is no such comparison")
    facts = comparisons[name]
    if recipe is None:
        _check_name(text, fact, BLOCKS, f"{name} has no such table")
        block = BLOCKS[fact](facts, f"{name}/")
        if not block:
            raise ValueError(f"{{{{ {text} }}}}: {name} has nothing to show there")
        return block
    wanted = _read_selectors(text, where)
    if recipe in BOUNDS:
        return _bound(text, facts, recipe, fact, wanted)
    _check_name(text, recipe, [*facts["recipes"], *BOUNDS], f"{name} has no such recipe")
    if fact in RUN_FACTS:
        return run_fact(_only(text, [run for run in facts["runs"] if run["recipe"] == recipe], wanted), fact)
    label = wanted.pop("class", None)
    cells = [cell for cell in (*facts["cells"], *facts["means"]) if cell["recipe"] == recipe]
    cell = _only(text, cells, wanted)
    metrics = cell["metrics"]
    if label is not None:
        classes = cell.get("per_class", {})
        _check_name(text, label, classes, "there is no such class")
        metrics = classes[label]
    _check_name(text, fact, [*metrics, *RUN_FACTS], "there is no such metric or fact of a run")
    return mean_with_error(metrics[fact]["mean"], metrics[fact]["stderr"])


def _read_selectors(text: str, where: str | None) -> dict[str, str]:
    """What stands in the brackets: values by axis, or by `class`."""
    wanted = {}
    for part in (where or "").split(",") if where is not None else ():
        axis, sign, value = (piece.strip() for piece in part.partition("="))
        if not (axis and sign and value):
            raise ValueError(f"{{{{ {text} }}}}: write AXIS=VALUE into the brackets, with commas between several")
        _check_name(text, axis, [*AXIS_NAMES, "class"], "there is no such axis")
        wanted[axis] = value
    return wanted


def _bound(text: str, facts: Mapping[str, Any], bound: str, metric: str, wanted: Mapping[str, str]) -> str:
    counts = [cell for cell in facts["cells"] if all(_is(cell.get(axis), value) for axis, value in wanted.items())]
    known = {name for cell in counts for name, value in cell[bound].items() if value is not None}
    _check_name(text, metric, known, f"there is no {bound} of it")
    values = {bound_value(facts, bound, metric, cell["num_images"]) for cell in counts}
    if len(values) > 1:
        raise ValueError(f"{{{{ {text} }}}}: {bound} depends on the number of images, add [num_images=...]")
    return number(values.pop())


def _only(text: str, entries: Iterable[Mapping[str, Any]], wanted: Mapping[str, str]) -> Mapping[str, Any]:
    """The only run or measurement that has the wanted values."""
    entries = list(entries)
    for axis, value in wanted.items():
        kept = [entry for entry in entries if _is(entry.get(axis), value)]
        if not kept:
            there = dict.fromkeys(str(entry[axis]) for entry in entries if entry.get(axis) is not None)
            raise ValueError(f"{{{{ {text} }}}}: none has {axis}={value}, there {_are(there)}")
        entries = kept
    if len(entries) > 1:
        several = {axis: dict.fromkeys(str(entry.get(axis)) for entry in entries) for axis in AXIS_NAMES}
        axis = next((axis for axis, values in several.items() if len(values) > 1), "train_seed")
        raise ValueError(f"{{{{ {text} }}}}: several have it, say which with [{axis}=...]: there {_are(several[axis])}")
    return entries[0]


def _is(found: Any, wanted: str) -> bool:
    """Whether a value is the one that was written."""
    if isinstance(found, (int, float)):
        try:
            return float(wanted) == found
        except ValueError:
            return False
    return str(found) == wanted


def _check_name(text: str, name: str, known: Iterable[str], problem: str) -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)[:10]
        there = f"; near: {', '.join(near)}" if near else ", nor any other"
        raise ValueError(f"{{{{ {text} }}}}: {problem}, {name!r}{there}")


def _are(values: Iterable[str]) -> str:
    values = list(values)
    return f"{'is' if len(values) == 1 else 'are'} {', '.join(values) or 'none'}"
