"""Examine a run: `print(examine(RunFolder("runs/digits")))` says what it shows, what that means and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.config import require
from hf_ddpm.doctor import log_rules, sample_rules, setup_rules
from hf_ddpm.doctor.facts import Facts, Kind, read_facts
from hf_ddpm.doctor.finding import Answer, Finding, Gap
from hf_ddpm.doctor.measured import Measured
from hf_ddpm.markdown import counted
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.text import one_line

DIFFUSION: tuple[Kind, ...] = ("diffusion model",)
GENERATIVE: tuple[Kind, ...] = ("diffusion model", "GAN")
ALL: tuple[Kind, ...] = ("diffusion model", "GAN", "judge")


@dataclass(frozen=True)
class Rule:
    """One thing to look at."""

    look: Callable[[Facts], Answer]
    kinds: tuple[Kind, ...]
    """What it is about."""
    explained_by: tuple[str, ...] = ()
    """Findings with which it is not looked at, as they have the same signs."""


NUM_IMAGES = 200
"""Samples by default."""
RULES = (
    Rule(log_rules.diverged, ALL),
    Rule(log_rules.unfinished, ALL, ("diverged",)),
    Rule(setup_rules.lagging_average, GENERATIVE, ("diverged",)),
    Rule(log_rules.learning_rate, DIFFUSION, ("diverged",)),
    Rule(setup_rules.dropped_classes, GENERATIVE),
    Rule(log_rules.overfitting, DIFFUSION, ("diverged", "averaged weights lag", "classes ignored")),
    Rule(setup_rules.copied_images, GENERATIVE, ("overfitting",)),
    Rule(
        log_rules.convergence,
        DIFFUSION,
        ("diverged", "unfinished", "learning rate too high", "learning rate too low", "overfitting"),
    ),
    Rule(setup_rules.few_images, GENERATIVE),
    Rule(setup_rules.scheduler, DIFFUSION),
)
"""In the order in which they are looked at: causes before what follows from them."""
MEASURED_RULES = (sample_rules.copies, sample_rules.ignored_classes, sample_rules.unlike_preview)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What a run shows."""

    subject: str
    """The run in one line."""
    findings: Sequence[Finding]
    gaps: Sequence[Gap]
    """What cannot be told."""

    def __str__(self) -> str:
        lines = [self.subject]
        for finding in self.findings:
            lines += ["", finding.name]
            lines += [f"  {name + ':':<6} {one_line(text)}" for name, text in _parts(finding)]
        lines += [""] if self.findings else []
        lines += [f"cannot tell {gap.name}: {one_line(gap.reason)} ({one_line(as_typed(gap.remedy))})" for gap in self.gaps]
        found = counted(len(self.findings), "finding") if self.findings else "nothing wrong was found"
        return "\n".join([*lines, found])


def examine(
    run: RunFolder,
    *,
    samples: bool = False,
    num_images: int = NUM_IMAGES,
    scheduler: str | None = None,
    num_inference_steps: int | None = None,
) -> Examination:
    """Look at the files of a run and, with `samples`, at samples of its newest model.

    A `ValueError` of one line: there is no run, it is damaged, or it cannot be sampled from as the arguments ask. For them
    see `hf_ddpm.doctor.measurements.measure`.
    """
    facts = read_facts(run)
    findings: dict[str, Finding] = {}
    gaps: list[Gap] = []
    for rule in RULES:
        if facts.kind in rule.kinds and findings.keys().isdisjoint(rule.explained_by):
            _file(rule.look(facts), findings, gaps)
    if samples:
        for answer in _answers_of_samples(facts, num_images, scheduler, num_inference_steps):
            _file(answer, findings, gaps)
    elif facts.kind != "judge":
        names = "use of the classes, copies, fit of the scheduler" if facts.kind == "diffusion model" else "copies"
        gaps.append(Gap(name=names, reason="this takes samples", remedy="--samples"))
    return Examination(subject=_subject(facts), findings=list(findings.values()), gaps=gaps)


def _answers_of_samples(
    facts: Facts, num_images: int, scheduler: str | None, num_inference_steps: int | None
) -> list[Answer]:
    require(facts.kind != "judge", "samples", True, "the run is of a judge, which generates nothing, leave it out")
    if facts.kind == "GAN":
        for name, value in (("scheduler", scheduler), ("num_inference_steps", num_inference_steps)):
            require(value is None, name, value, "the model is a GAN and takes no steps, leave it out")
    if facts.model is None:
        remedy = "let it reach a checkpoint, see --checkpoint.every_steps"
        return [Gap(name="anything about samples", reason="the run has saved no model yet", remedy=remedy)]
    if facts.option("data", "streaming"):
        remedy = "hf-ddpm evaluate measures the same with nearest_train_distance and class_accuracy"
        return [Gap(name="anything about samples", reason="the images of a stream are not kept", remedy=remedy)]
    from hf_ddpm.doctor.measurements import measure  # imports torch, for which files alone should not wait

    measured: Measured = measure(facts, num_images=num_images, scheduler=scheduler, num_inference_steps=num_inference_steps)
    return [look(measured) for look in MEASURED_RULES]


def _file(answer: Answer, findings: dict[str, Finding], gaps: list[Gap]) -> None:
    """Add an answer, unless the same was found before."""
    if isinstance(answer, Finding):
        findings.setdefault(answer.name, answer)
    elif isinstance(answer, Gap):
        gaps.append(answer)


def _parts(finding: Finding) -> list[tuple[str, str]]:
    return [("seen", finding.seen), ("means", finding.meaning), ("do", as_typed(finding.remedy))]


def _subject(facts: Facts) -> str:
    total = "" if facts.total_steps is None else f" of {facts.total_steps:,}"
    state = ", being trained now" if facts.is_running else ""
    images = "" if facts.num_images is None else f", {facts.num_images:,} training images"
    epochs = "" if facts.epochs is None else f", {facts.epochs:.1f} epochs"
    return f"{one_line(facts.folder.path)}: {facts.kind}, step {facts.step:,}{total}{epochs}{images}{state}"
