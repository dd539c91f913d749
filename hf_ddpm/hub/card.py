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
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml, metadata_load
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.config import DEFAULT_GUIDANCE_SCALE
from hf_ddpm.hub.choices import KNOWN_DATA, CardChoices
from hf_ddpm.hub.defaults import describe_defaults
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


class ChoiceError(ValueError):
    """What a user has chosen for a card cannot be written into it."""


def write_card(pipeline_dir: Path, run_dir: Path | None = None, choices: CardChoices | None = None) -> bool:
    """Write the card, its picture and its evaluation results into a saved pipeline; return whether it was written.

    `run_dir` is the folder of its training run (None = unknown, the card describes the pipeline alone), and `choices` None =
    those of the card that is there. A README.md that a user has written or edited stays, and the log says so. A ValueError
    says why there can be no card, or that a choice cannot be written into it.
    """
    if keeps_own(pipeline_dir, choices):
        return False
    files = card_files(pipeline_dir, run_dir, choices=choices)
    for name in sorted(files, key=lambda name: name == README):  # last, as it shows the others
        write_whole(pipeline_dir / name, files[name])
    return True


def try_write_card(pipeline_dir: Path, run_dir: Path, choices: CardChoices | None = None) -> bool:
    """Do `write_card` where the weights matter more: a failure is a warning with the command to write the card later."""
    try:
        return write_card(pipeline_dir, run_dir, choices)
    except Exception as error:  # a full disk, a file of the run that anyone may have edited, a mistake in the template
        command = f"{as_typed('hf-ddpm write-card')} --model {shlex.quote(str(pipeline_dir))}"
        logger.warning("the model card of %s is not written, %s; to try again: %s", pipeline_dir, _reason(error), command)
        return False


def card_files(
    pipeline_dir: Path, run_dir: Path | None = None, repo_id: str | None = None, choices: CardChoices | None = None
) -> dict[str, bytes]:
    """Return the files of a card by path in the repository: README.md, samples.png and .eval_results/*.yaml.

    `repo_id` is OWNER/NAME on the Hub, None = not published yet; what `choices` leaves open is as in the card that is there.
    A ValueError names a folder that is not a saved pipeline or a damaged config.yaml of the run, refuses a GAN, for which
    the card's text about diffusion would be wrong, or a choice that does not fit the run.
    """
    pipeline = read_pipeline(Path(pipeline_dir))
    if pipeline.class_name == "DCGANPipeline":
        raise ValueError(f"--model is {str(pipeline_dir)!r}: there is no model card for a GAN, write its README.md yourself")
    run = None if run_dir is None else read_run(RunFolder(run_dir))
    settled = settle_choices(choices, read_choices(pipeline_dir), run)
    # In a folder to share, the record of the run is beside the card.
    has_record = run_dir is not None and repo_id is None and not _is_pipeline_of(RunFolder(run_dir), pipeline_dir)
    is_alone = has_record and Path(run_dir or "").resolve() != Path(pipeline_dir).resolve()
    text = render_card(pipeline, run, repo_id, settled, has_record=has_record, is_alone=is_alone)
    files = {README: text.encode()}
    if run is not None and run.samples is not None:
        files[PICTURE] = run.samples[1].read_bytes()
    for name, entries in _result_entries(run).items():
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        files[f"{EVAL_RESULTS}/{name}.yaml"] = text.encode()
    return files


def files_to_publish(pipeline_dir: Path, repo_id: str, choices: CardChoices | None = None) -> dict[str, bytes]:
    """Return the card's files by path in the repository, rendered again from the run folder around the pipeline.

    If that is gone, only the model's name is filled in. The dict is empty if a user has written or edited the README.md, or
    if the card fails, which must not hold the weights back; the log says so. `ChoiceError`: a choice cannot be written into
    the card.
    """
    run_dir, readme = find_run(pipeline_dir), pipeline_dir / README
    if keeps_own(pipeline_dir, choices):
        return {}
    is_left = is_left_over(pipeline_dir, run_dir, choices)
    try:
        if is_left:
            return {README: seal(_read(readme).replace(f'"{NO_NAME}"', f'"{repo_id}"')).encode()}
        return card_files(pipeline_dir, run_dir, repo_id, choices)
    except ChoiceError:
        raise
    except Exception as error:  # as in `try_write_card`
        instead = "the README.md there is published as it is" if readme.is_file() else "the model is published without one"
        logger.warning("no model card is rendered, %s: %s", _reason(error), instead)
        return {}


def has_rendered_card(pipeline_dir: Path) -> bool:
    """Whether the README.md of a folder is a rendered card that nobody has changed."""
    readme = pipeline_dir / README
    return readme.is_file() and is_rendered(_read(readme))


def read_choices(pipeline_dir: Path) -> CardChoices:
    """What was chosen for the rendered card that is there; nothing without one."""
    try:
        found = (metadata_load(pipeline_dir / README) if has_rendered_card(pipeline_dir) else None) or {}
        return CardChoices(license=found.get("license"), dataset=(found.get("datasets") or [None])[0])
    except (ValueError, TypeError, LookupError, yaml.YAMLError):  # a card of an earlier version, edited
        return CardChoices()


def settle_choices(choices: CardChoices | None, there: CardChoices, run: RunFacts | None) -> CardChoices:
    """The choices, and those of the card that is there for what they leave open; `ChoiceError`: one does not fit the run."""
    choices = choices or CardChoices()
    is_copy = run is not None and run.source_kind == "local"
    if not is_copy and choices.dataset not in (None, run and run.source):
        read = f"the run has read {run.source!r}" if run else "it is not known what the run has read"
        raise ChoiceError(f"--dataset is {choices.dataset!r}: {read}, leave it out")
    dataset = (choices.dataset or there.dataset) if is_copy else None
    return CardChoices(license=choices.license or there.license, dataset=dataset)


def keeps_own(pipeline_dir: Path, choices: CardChoices | None = None) -> bool:
    """Whether a folder has a README.md that a user has written or edited; then the log says that it stays.

    `ChoiceError`: nothing can be chosen for that.
    """
    readme = pipeline_dir / README
    if not os.path.lexists(readme) or has_rendered_card(pipeline_dir):
        return False
    _refuse(choices, f"{readme} was written or edited by hand, write it there yourself")
    logger.info("%s was written or edited by hand and stays as it is; remove it to get a rendered model card", readme)
    return True


def is_left_over(pipeline_dir: Path, run_dir: Path | None, choices: CardChoices | None = None) -> bool:
    """Whether a rendered card is that of a run that is gone, so that it cannot be rendered again; `ChoiceError`: nothing can
    be chosen for it."""
    if run_dir is not None or not has_rendered_card(pipeline_dir):
        return False
    _refuse(choices, "the run that the card was rendered from is gone, write it into README.md yourself")
    return True


def _is_pipeline_of(run: RunFolder, folder: Path) -> bool:
    return run.pipeline.resolve() == Path(folder).resolve()


def _refuse(choices: CardChoices | None, remedy: str) -> None:
    for option in ("license", "dataset") if choices is not None else ():
        if (value := getattr(choices, option)) is not None:
            raise ChoiceError(f"--{option} is {value!r}: {remedy}")


def _read(readme: Path) -> str:
    return readme.read_text(encoding="utf-8", errors="replace")


def _reason(error: Exception) -> str:
    name = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return one_line(f"{name}{error}", MAX_REASON)


def find_run(pipeline_dir: Path) -> Path | None:
    """The run folder whose `pipeline/` this is; None = none, as for a checkpoint or a copy."""
    folder = Path(pipeline_dir).resolve()
    run = RunFolder.of(folder)
    return run.path if run is not None and run.has_published(folder) else None


def render_card(
    pipeline: PipelineFacts,
    run: RunFacts | None = None,
    repo_id: str | None = None,
    choices: CardChoices | None = None,
    *,
    has_record: bool = False,
    is_alone: bool = False,
) -> str:
    """Render card_template.md.j2 as README.md: metadata in YAML, then Markdown; `run` None = unknown.

    `has_record`: the files of the run that the card names are beside it; `is_alone`: and the model is not.
    """
    choices = choices or CardChoices()
    source = resources.files("hf_ddpm.hub").joinpath("card_template.md.j2").read_text(encoding="utf-8")
    template = build_environment().from_string(source)
    kind = CONDITIONS[pipeline.condition]
    local_title = f"{pipeline.size} {kind} diffusion model" if pipeline.unet else pipeline.class_name
    title = repo_id.split("/")[-1] if repo_id else local_title
    facts = {
        "title": title,
        "pipeline": pipeline,
        "run": run,
        "choices": choices,
        "has_record": has_record,
        "is_alone": is_alone,
    }
    text = template.render(
        facts,
        metadata=_card_metadata(pipeline, run, title, choices).to_yaml(),
        known_data=None if run is None else KNOWN_DATA.get(choices.dataset or run.source),
        model=repo_id or NO_NAME,
        guidance_scale=DEFAULT_GUIDANCE_SCALE,
        defaults_in_words=describe_defaults(pipeline.sampling_defaults),
    )
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


def _card_metadata(pipeline: PipelineFacts, run: RunFacts | None, name: str, choices: CardChoices) -> ModelCardData:
    """The card's YAML metadata."""
    results = _model_index(run, choices.dataset)
    data = run.source if run is not None and run.source_kind == "hub" else choices.dataset
    tags = ["diffusers", *(("diffusion", "ddpm", "image-generation") if pipeline.unet else ())]
    tags += [CONDITIONS[pipeline.condition]] if pipeline.num_classes is not None else []
    tags += ["classifier-free-guidance"] if pipeline.null_label is not None else []
    tags += ["distillation"] if pipeline.own_steps is not None else []
    tags += ["hf_ddpm"] if pipeline.is_ours else []
    return ModelCardData(
        base_model=None if run is None else run.base_model,
        license=choices.license,
        library_name="diffusers",
        pipeline_tag=TASK if pipeline.unet else None,
        tags=tags,
        datasets=None if data is None else [data],
        model_name=name if results else None,
        eval_results=results or None,
    )


def _model_index(run: RunFacts | None, dataset: str | None) -> list[EvalResult]:
    if run is None:
        return []
    names = {
        "digits": ("digits", "scikit-learn digits"),
        "local": (dataset or "local", f"a copy of {dataset}" if dataset else "local images"),
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
