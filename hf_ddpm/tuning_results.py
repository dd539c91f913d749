"""How a model samples best, as `hf-ddpm tune-guidance` found it: `Tuning.read(folder / "tuning.json")`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_ddpm.markdown import code, escaped, interval_text, mean_with_error, number, table, value_text
from hf_ddpm.results import MetricValue, read_metrics
from hf_ddpm.runtime.reading import parse_json

FILE = "tuning.json"
SHOWN = ("recall", "precision", "class_accuracy")
"""Metrics in tables, beside the distance."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to sample a model, and its measurement."""

    name: str
    """Of its file of results, without the ending."""
    scheduler: str
    """Class."""
    num_inference_steps: int
    guidance_scale: float
    """s; 1 = no guidance."""
    guidance: str | None = None
    """None = the usual one of the model."""
    guidance_interval: tuple[float, float] | None = None
    """Fractions of T; None = everywhere."""
    network_calls: int
    """Images that the network processes for one sample."""
    metrics: dict[str, MetricValue] = field(default_factory=dict)

    @property
    def guided(self) -> str:
        """The guidance in words."""
        if self.guidance_scale == 1:
            return "none"
        what = f"s = {self.guidance_scale:g}" + ("" if self.guidance is None else f", {self.guidance}")
        interval = self.guidance_interval or (0, 1)
        return what if interval == (0, 1) else f"{what}, {interval_text(interval)}"


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round of successive halving: candidates with the same seeds and labels."""

    num_images: int
    """Images of each seed."""
    seeds: list[int]
    candidates: list[Candidate]
    """From the smallest distance on."""
    kept: list[str]
    """Names of those that are in the next round; in the last one that of the chosen one."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The rounds, and the chosen candidate beside the defaults before, measured by another judge on the other split."""

    verdict: Literal["gain", "fewer calls", "no gain"]
    """Whether the held-out distance of the chosen candidate is measurably smaller, or about the same in fewer calls."""
    distance: str
    """Name of the distance of the rounds."""
    heldout_distance: str
    chosen: Candidate
    before: Candidate
    """The defaults of the model before."""
    difference: MetricValue
    """Of the two held-out distances, seed by seed: below 0, the chosen one is better."""
    sampling_defaults: dict[str, Any]
    """Those of the chosen candidate, as a pipeline saves them."""
    scheduler: str | None
    """Name of its scheduler in `hf_ddpm.schedulers.SCHEDULERS`; None = the one that was saved with the model."""
    rounds: list[Round]
    floor: dict[str, float]
    """Held-out metrics of real images."""
    protocol: dict[str, Any]
    """JSON values: command, model, judges, splits, seeds, machine."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Tuning:
        """Read a file of `to_json`; `ValueError`: it is damaged, `OSError`: it cannot be read."""
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
            found["rounds"] = [
                Round(**{**each, "candidates": [_candidate(it) for it in each["candidates"]]}) for each in found["rounds"]
            ]
            found |= {name: _candidate(found[name]) for name in ("chosen", "before")}
            found |= read_metrics(MetricValue, {"difference": found["difference"]})
            tuning = cls(**found)
            tuning.statement, tuning.heldout_table()  # noqa: B018 - of kinds that can be shown
            return tuning
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: it is not what a tuning writes") from error

    @property
    def statement(self) -> str:
        """What was found, in one sentence."""
        distances = [one.metrics[self.heldout_distance] for one in (self.chosen, self.before)]
        new, old = (mean_with_error(value.mean, value.stderr) for value in distances)
        if self.chosen.name == self.before.name:
            measured = f"{self.heldout_distance} {new} on the held-out judge"
            return f"No gain: the defaults are the best of the candidates ({measured})."
        difference = mean_with_error(self.difference.mean, self.difference.stderr)
        measured = f"{self.heldout_distance} {new} instead of {old}, difference {difference}"
        calls = f"{self.chosen.network_calls} calls of the network for an image instead of {self.before.network_calls}"
        if self.verdict == "fewer calls":
            return f"No measurable difference on the held-out judge ({measured}), in {calls}."
        return f"{self.verdict.capitalize()} on the held-out judge: {measured}, in {calls}."

    def heldout_table(self) -> str:
        """The chosen candidate beside the defaults before, and real images, as a Markdown table."""
        both = (self.before, self.chosen)
        rows = [
            ["scheduler", *(escaped(one.scheduler) for one in both), ""],
            ["steps", *(value_text(one.num_inference_steps) for one in both), ""],
            ["guidance", *(escaped(one.guided) for one in both), ""],
            ["network calls for an image", *(value_text(one.network_calls) for one in both), ""],
        ]
        for name in (self.heldout_distance, *(it for it in SHOWN if it in self.chosen.metrics)):
            rows.append([code(name), *(metric_text(one, name) for one in both), number(self.floor.get(name))])
        return table(["", "before", "tuned", "real images"], rows)


def rounds_markdown(tuning: Tuning) -> str:
    """A Markdown table of each round."""
    parts = []
    for index, each in enumerate(tuning.rounds, start=1):
        kept = ", ".join(map(code, each.kept))
        about = f"Round {index}: {len(each.seeds)} seeds of {each.num_images:,} images; kept: {kept}."
        parts += [about, candidates_table(each.candidates, tuning.distance)]
    return "\n\n".join(parts)


def candidates_table(candidates: Iterable[Candidate], distance: str) -> str:
    """Candidates with their costs and main metrics, as a Markdown table."""
    candidates = list(candidates)
    metrics: Sequence[str] = (distance, *(name for name in SHOWN if name in candidates[0].metrics))
    rows = [
        [code(one.name), escaped(one.scheduler), value_text(one.num_inference_steps), escaped(one.guided)]
        + [value_text(one.network_calls), *(metric_text(one, name) for name in metrics)]
        for one in candidates
    ]
    return table(["candidate", "scheduler", "steps", "guidance", "network calls", *metrics], rows)


def metric_text(candidate: Candidate, name: str) -> str:
    """A metric with its standard error; "" = it has none of this name."""
    value = candidate.metrics.get(name)
    return "" if value is None else mean_with_error(value.mean, value.stderr)


def _candidate(found: dict[str, Any]) -> Candidate:
    interval = found.get("guidance_interval")
    found = {**found, "guidance_interval": interval and tuple(interval)}
    return Candidate(**{**found, "metrics": read_metrics(MetricValue, found["metrics"])})
