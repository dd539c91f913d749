"""A measurement as a Markdown table: `markdown_report(results)`."""

from __future__ import annotations

from typing import Any


def markdown_report(results: dict[str, Any]) -> str:
    """The metrics with standard error, number of images, floor and ceiling, those of each class, notes and the command."""
    protocol = results["protocol"]
    how = "one call of a GAN"
    if "scheduler" in protocol:
        scale = protocol["guidance_scale"]
        how = f"{protocol['num_inference_steps']} steps of {protocol['scheduler']}, s = {scale:g} (w = {scale - 1:g})"
    lines = [
        f"{len(protocol['seeds'])} seeds of {protocol['num_images']:,} images, {how}, against the "
        f"{protocol['reference_split']} split ({protocol['reference_images']:,} images). Floor: real images of the other "
        "split; ceiling: uniform noise.",
        "",
        "| metric | mean ± standard error | n | floor | ceiling |",
        "|---|---|---|---|---|",
    ]
    for name, values in results["metrics"].items():
        bounds = (_number(results[bound].get(name)) for bound in ("floor", "ceiling"))
        lines.append(f"| {name} | {mean_with_error(values)} | {values['n']:,} | {' | '.join(bounds)} |")
    lines += _class_table(results["per_class"])
    lines += ["", *(f"- {note}" for note in results["notes"])] if results["notes"] else []
    return "\n".join([*lines, "", "```bash", protocol["command"], "```", ""])


def mean_with_error(values: dict[str, Any]) -> str:
    """A mean with its standard error; without one where there is one seed."""
    return _number(values["mean"]) + ("" if values["stderr"] is None else f" ± {values['stderr']:.2g}")


def _class_table(per_class: dict[str, dict[str, Any]]) -> list[str]:
    if not per_class:
        return []
    names = list(dict.fromkeys(name for metrics in per_class.values() for name in metrics))  # a class may lack some
    header = [cell for name in names for cell in (name, "floor")]
    lines = ["", f"| class | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
    for label, metrics in per_class.items():
        found = [metrics.get(name) for name in names]
        cells = [cell for it in found for cell in ((mean_with_error(it), _number(it["floor"])) if it else ("", ""))]
        lines.append(f"| {label.replace('|', '&#124;')} | {' | '.join(cells)} |")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
