"""The model card of a saved pipeline, README.md, rendered from the folder of its run: `write_card(pipeline_dir, run_dir)`.

What is not known is left out, section by section; every number stands beside the file or command that it comes from.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from hf_ddpm.hub.facts import PipelineFacts, RunFacts, is_number, read_pipeline, read_run
from hf_ddpm.hub.sections import (
    classes_section,
    data_section,
    evaluation_section,
    limits_section,
    local_title,
    model_table,
    references_section,
    reproduce_section,
    samples_section,
    summary,
    training_section,
)
from hf_ddpm.hub.usage import use_section
from hf_ddpm.markdown import escaped, without_paths

NO_NAME = "path/to/this/folder"
"""What stands for the model in the snippets of a card that is not on the Hub yet."""
MARKER = "Rendered by hf_ddpm, and again at each push; delete this line to keep your own changes."
TASK = "unconditional-image-generation"


def write_card(pipeline_dir: Path, run_dir: Path | None = None, repo_id: str | None = None) -> None:
    """Write the card, its picture and its evaluation results into a saved pipeline.

    Args:
        pipeline_dir: folder of the pipeline.
        run_dir: folder of the run that trained it; None = the card tells what the pipeline itself does.
        repo_id: OWNER/NAME on the Hub, for the snippets; None = not published yet.

    Raises:
        ValueError: the folder is no saved pipeline, or a file of the run is damaged.
    """
    for name, content in card_files(pipeline_dir, run_dir, repo_id).items():
        path = pipeline_dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def card_files(pipeline_dir: Path, run_dir: Path | None = None, repo_id: str | None = None) -> dict[str, bytes]:
    """Return what `write_card` writes: README.md, samples.png and .eval_results/*.yaml, by path in the repository.

    Raises:
        ValueError: see `write_card`; or it is a GAN's pipeline, of which the card's text about diffusion would be untrue.
    """
    pipeline = read_pipeline(Path(pipeline_dir))
    if pipeline.class_name == "DCGANPipeline":
        raise ValueError(
            f"--model is {str(pipeline_dir)!r}: no card is written for a GAN, put a README.md of your own into it"
        )
    run = None if run_dir is None else read_run(Path(run_dir))
    files = {"README.md": render_card(pipeline, run, repo_id).encode()}
    if run is not None and run.samples is not None:
        files["samples.png"] = run.samples.read_bytes()
    for name, entries in _result_entries(run).items():
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        files[f".eval_results/{name}.yaml"] = text.encode()
    return files


def files_to_publish(pipeline_dir: Path, repo_id: str) -> dict[str, bytes]:
    """Return the card's files as they are to stand in a repository.

    A README.md that this module did not render, or that was changed since (its last line is gone), stays as it is.
    Otherwise the card is rendered anew from the run beside the pipeline, or if that is gone, given its name.
    """
    readme = pipeline_dir / "README.md"
    run_dir = find_run(pipeline_dir)
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        if MARKER not in text:
            return {}
        if run_dir is None:
            return {"README.md": text.replace(f'"{NO_NAME}"', f'"{repo_id}"').encode()}
    return card_files(pipeline_dir, run_dir, repo_id)


def find_run(pipeline_dir: Path) -> Path | None:
    """The run folder that a pipeline folder lies in; None = it is not the `pipeline/` of a run."""
    folder = Path(pipeline_dir).resolve()
    is_of_run = folder.name == "pipeline" and (folder.parent / "config.yaml").is_file()
    return folder.parent if is_of_run else None


def render_card(pipeline: PipelineFacts, run: RunFacts | None = None, repo_id: str | None = None) -> str:
    """Render the card.

    Args:
        pipeline: what the pipeline says of itself.
        run: what its run says; None = not known.
        repo_id: see `write_card`.

    Returns:
        README.md: metadata in YAML, then Markdown.
    """
    template = resources.files("hf_ddpm.hub").joinpath("card_template.md").read_text(encoding="utf-8")
    title = repo_id.split("/")[-1] if repo_id else local_title(pipeline)
    card = ModelCard.from_template(
        card_metadata(pipeline, run, title),
        template_str=template,
        title=escaped(title),
        summary=summary(pipeline),
        model_table=model_table(pipeline),
        samples=samples_section(pipeline, run),
        use=use_section(pipeline, repo_id or NO_NAME),
        classes=classes_section(pipeline),
        data=data_section(run),
        training=training_section(run),
        evaluation=evaluation_section(run),
        limits=limits_section(pipeline, run),
        reproduce=reproduce_section(run),
        references=references_section(pipeline, run),
        marker=MARKER,
    )
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"


def card_metadata(pipeline: PipelineFacts, run: RunFacts | None, name: str) -> ModelCardData:
    """The YAML of the card. No licence is claimed: nobody has named one."""
    tags = ["diffusers"]
    if pipeline.unet:
        tags += ["diffusion", "ddpm", "image-generation"]
    if pipeline.num_classes is not None:
        tags.append("class-conditional")
    if pipeline.null_label is not None:
        tags.append("classifier-free-guidance")
    if pipeline.is_ours:
        tags.append("hf_ddpm")
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag=TASK if pipeline.unet else None,
        tags=tags,
        datasets=[run.option("data", "source")] if run is not None and run.source_kind == "hub" else None,
        model_name=name if run is not None and _metrics(run) else None,
        eval_results=_model_index(run) or None,
    )


def _metrics(run: RunFacts | None) -> list[tuple[str, str, dict[str, Any]]]:
    """(file, metric, values) of each metric that has a finite mean."""
    results = {} if run is None else run.results
    return [
        (name, metric, values)
        for name, result in results.items()
        for metric, values in result["metrics"].items()
        if is_number(values.get("mean"))
    ]


def _model_index(run: RunFacts | None) -> list[EvalResult]:
    is_hub = run is not None and run.source_kind == "hub"
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=run.option("data", "source") if is_hub else run.source_kind,
            dataset_name=run.option("data", "source")
            if is_hub
            else {"digits": "scikit-learn digits"}.get(run.source_kind, "local images"),
            metric_type=metric,
            metric_name=f"{metric} ({name})",
            metric_value=values["mean"],
            metric_args={key: values[key] for key in ("stderr", "n") if is_number(values.get(key))} or None,
        )
        for name, metric, values in _metrics(run)
    ]


def _result_entries(run: RunFacts | None) -> dict[str, list[EvalResultEntry]]:
    """Entries of .eval_results/NAME.yaml by NAME; only a data set of the Hub can have them."""
    entries: dict[str, list[EvalResultEntry]] = {}
    for name, metric, values in _metrics(run) if run is not None and run.source_kind == "hub" else []:
        protocol = without_paths(run.results[name].get("protocol") or {})
        notes = "; ".join(f"{key}: {value}" for key, value in protocol.items()) or None
        entry = EvalResultEntry(dataset_id=run.option("data", "source"), task_id=metric, value=values["mean"], notes=notes)
        entries.setdefault(name, []).append(entry)
    return entries
