"""Model cards from run folders: sections without facts are left out, and every number has its file or command beside it."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.config import DEFAULT_GUIDANCE_SCALE
from hf_ddpm.hub.facts import MAX_REASON, PipelineFacts, RunFacts, read_pipeline, read_run
from hf_ddpm.hub.seal import is_rendered, seal
from hf_ddpm.markdown import code, code_block, counted, escaped, mean_with_error, number, python_literal, value_text
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.text import one_line, printable

NO_NAME = "path/to/this/folder"
"""Placeholder for the model in the snippets of a card that is not on the Hub yet."""
README, PICTURE, EVAL_RESULTS = CARD_FILES = ("README.md", "samples.png", ".eval_results")
"""What a card consists of, in the folder of its pipeline."""
FILTERS: tuple[Callable[..., str], ...] = (code, code_block, counted, mean_with_error, number, python_literal, value_text)
TASK = "unconditional-image-generation"
CONDITIONS = {None: "unconditional", "class": "class-conditional", "labels": "multi-label", "number": "number-conditional"}

logger = logging.getLogger(__name__)


def write_card(pipeline_dir: Path, run_dir: Path | None = None) -> bool:
    """Write the card, its picture and its evaluation results into a saved pipeline; return whether it was written.

    `run_dir` is the folder of its training run (None = unknown, the card describes the pipeline alone). A README.md that a
    user has written or edited stays, and the log says so. A ValueError says why there can be no card.
    """
    if _keeps_own(pipeline_dir):
        return False
    files = card_files(pipeline_dir, run_dir)
    for name in sorted(files, key=lambda name: name == README):  # last, as it shows the others
        write_whole(pipeline_dir / name, files[name])
    return True


def try_write_card(pipeline_dir: Path, run_dir: Path) -> bool:
    """Do `write_card` where the weights matter more: a failure is a warning with the command to write the card later."""
    try:
        return write_card(pipeline_dir, run_dir)
    except Exception as error:  # a full disk, a file of the run that anyone may have edited, a mistake in the template
        command = f"{as_typed('hf-ddpm write-card')} --model {shlex.quote(str(pipeline_dir))}"
        logger.warning("the model card of %s is not written, %s; to try again: %s", pipeline_dir, _reason(error), command)
        return False


def card_files(pipeline_dir: Path, run_dir: Path | None = None, repo_id: str | None = None) -> dict[str, bytes]:
    """Return the files of a card by path in the repository: README.md, samples.png and .eval_results/*.yaml.

    `repo_id` is OWNER/NAME on the Hub, None = not published yet. A ValueError names a folder that is not a saved pipeline or
    a damaged config.yaml of the run, or refuses a GAN, for which the card's text about diffusion would be wrong.
    """
    pipeline = read_pipeline(Path(pipeline_dir))
    if pipeline.class_name == "DCGANPipeline":
        raise ValueError(f"--model is {str(pipeline_dir)!r}: there is no model card for a GAN, write its README.md yourself")
    run = None if run_dir is None else read_run(RunFolder(run_dir))
    files = {README: render_card(pipeline, run, repo_id).encode()}
    if run is not None and run.samples is not None:
        files[PICTURE] = run.samples[1].read_bytes()
    for name, entries in _result_entries(run).items():
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        files[f"{EVAL_RESULTS}/{name}.yaml"] = text.encode()
    return files


def files_to_publish(pipeline_dir: Path, repo_id: str) -> dict[str, bytes]:
    """Return the card's files by path in the repository, rendered again from the run folder around the pipeline.

    If that is gone, only the model's name is filled in. The dict is empty if a user has written or edited the README.md, or
    if the card fails, which must not hold the weights back; the log says so.
    """
    run_dir, readme = find_run(pipeline_dir), pipeline_dir / README
    if _keeps_own(pipeline_dir):
        return {}
    try:
        if run_dir is None and readme.is_file():
            return {README: seal(_read(readme).replace(f'"{NO_NAME}"', f'"{repo_id}"')).encode()}
        return card_files(pipeline_dir, run_dir, repo_id)
    except Exception as error:  # as in `try_write_card`
        instead = "the README.md there is published as it is" if readme.is_file() else "the model is published without one"
        logger.warning("no model card is rendered, %s: %s", _reason(error), instead)
        return {}


def has_rendered_card(pipeline_dir: Path) -> bool:
    """Whether the README.md of a folder is a rendered card that nobody has changed."""
    readme = pipeline_dir / README
    return readme.is_file() and is_rendered(_read(readme))


def _keeps_own(pipeline_dir: Path) -> bool:
    """Whether a folder has a README.md that a user has written or edited; then the log says that it stays."""
    readme = pipeline_dir / README
    if not os.path.lexists(readme) or has_rendered_card(pipeline_dir):
        return False
    logger.info("%s was written or edited by hand and stays as it is; remove it to get a rendered model card", readme)
    return True


def _read(readme: Path) -> str:
    return readme.read_text(encoding="utf-8", errors="replace")


def _reason(error: Exception) -> str:
    name = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return one_line(f"{name}{error}", MAX_REASON)


def find_run(pipeline_dir: Path) -> Path | None:
    """The run folder whose `pipeline/` this is; None = none, as for a checkpoint or a copy."""
    folder = Path(pipeline_dir).resolve()
    run = RunFolder.of(folder)
    return run.path if run is not None and run.pipeline == folder else None


def render_card(pipeline: PipelineFacts, run: RunFacts | None = None, repo_id: str | None = None) -> str:
    """Render card_template.md.j2 as README.md: metadata in YAML, then Markdown; `run` None = unknown."""
    source = resources.files("hf_ddpm.hub").joinpath("card_template.md.j2").read_text(encoding="utf-8")
    template = build_environment().from_string(source)
    kind = CONDITIONS[pipeline.condition]
    local_title = f"{pipeline.size} {kind} diffusion model" if pipeline.unet else pipeline.class_name
    title = repo_id.split("/")[-1] if repo_id else local_title
    facts = {"metadata": _card_metadata(pipeline, run, title).to_yaml(), "title": title, "pipeline": pipeline, "run": run}
    text = template.render(facts, model=repo_id or NO_NAME, guidance_scale=DEFAULT_GUIDANCE_SCALE)
    return seal(re.sub(r"\n{3,}", "\n\n", printable(text)))


def build_environment() -> Environment:
    """Jinja for Markdown: values are escaped unless a filter returned Markdown; an unknown name is an error."""
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(escaped(value)),
    )

    def returning_markup(function: Callable[..., str]) -> Callable[..., Markup]:
        return lambda *arguments: Markup(function(*arguments))

    environment.filters |= {function.__name__: returning_markup(function) for function in FILTERS}
    return environment


def _card_metadata(pipeline: PipelineFacts, run: RunFacts | None, name: str) -> ModelCardData:
    """The card's YAML metadata. No license is set, because none was chosen."""
    results = _model_index(run)
    tags = ["diffusers", *(("diffusion", "ddpm", "image-generation") if pipeline.unet else ())]
    tags += [CONDITIONS[pipeline.condition]] if pipeline.num_classes is not None else []
    tags += ["classifier-free-guidance"] if pipeline.null_label is not None else []
    tags += ["distillation"] if pipeline.own_steps is not None else []
    tags += ["hf_ddpm"] if pipeline.is_ours else []
    return ModelCardData(
        base_model=None if run is None else run.base_model,
        library_name="diffusers",
        pipeline_tag=TASK if pipeline.unet else None,
        tags=tags,
        datasets=[run.source] if run is not None and run.source_kind == "hub" else None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _model_index(run: RunFacts | None) -> list[EvalResult]:
    if run is None:
        return []
    names = {
        "digits": ("digits", "scikit-learn digits"),
        "local": ("local", "local images"),
        "python": ("local", "images given in Python"),
        "hub": (run.source, run.source),
    }
    dataset_type, dataset_name = names[run.source_kind]
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            metric_type=metric,
            metric_name=f"{metric} ({name})",
            metric_value=value.mean,
            metric_args={key: getattr(value, key) for key in ("stderr", "n") if getattr(value, key) is not None} or None,
        )
        for name, results in run.results.items()
        for metric, value in results.metrics.items()
    ]


def _result_entries(run: RunFacts | None) -> dict[str, list[EvalResultEntry]]:
    """Entries of .eval_results/NAME.yaml by NAME; only data sets on the Hub can have them."""
    if run is None or run.source_kind != "hub":
        return {}
    entries = {}
    for name, results in run.results.items():
        notes = "; ".join(f"{key}: {setting}" for key, setting in results.protocol.items()) or None
        means = {metric: value.mean for metric, value in results.metrics.items()}
        entries[name] = [EvalResultEntry(run.source, metric, mean, notes=notes) for metric, mean in means.items()]
    return {name: found for name, found in entries.items() if found}
