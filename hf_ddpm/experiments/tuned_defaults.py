"""Save what a tuning has found as the defaults of the model, and report it: `report_tuning(config, tuning)`."""

from __future__ import annotations

import logging
import shlex
import shutil
from pathlib import Path
from typing import cast

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.evaluation.features import weights_digest
from hf_ddpm.experiments.tuning_options import TuneConfig
from hf_ddpm.hub.card import find_run, has_rendered_card, try_write_card
from hf_ddpm.markdown import code, code_block
from hf_ddpm.pipeline import NETWORKS, CFGDDPMPipeline, require
from hf_ddpm.run_folder import STATE
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.sampling import load_pipeline
from hf_ddpm.schedulers import build_scheduler
from hf_ddpm.text import printable
from hf_ddpm.tuning_results import Tuning, rounds_markdown

TABLE = "tuning.md"

logger = logging.getLogger(__name__)


def check_destination(config: TuneConfig) -> None:
    """Refuse a model whose defaults cannot be written, unless they are not to be."""
    if config.write_defaults == "never":
        return
    model, remedy = Path(config.model), "give a saved pipeline, or --write_defaults never"
    require(model.is_dir(), "model", config.model, f"nothing is written to the Hub: {remedy}")
    require(not (model / STATE).exists(), "model", config.model, f"it is a checkpoint, which stays as it is: {remedy}")


def report_tuning(config: TuneConfig, tuning: Tuning) -> str:
    """Write the table and, if that is wanted, the defaults and the card of the model; the Markdown, with what was done."""
    write_whole(Path(config.output_dir) / TABLE, tuning_markdown(tuning))
    wanted = tuning.verdict != "no gain" if config.write_defaults == "gain" else config.write_defaults == "always"
    wanted = wanted and tuning.chosen.name != tuning.before.name
    done = f"defaults: {config.model} is left as it is"
    if wanted:
        has_changed = save_defaults(Path(config.model), tuning)
        done = f"defaults: {'written to' if has_changed else 'there already,'} {config.model}"
    if config.write_defaults != "never":
        _write_card(Path(config.model), has_defaults=wanted)
    return f"{tuning_markdown(tuning)}\n{done}"


def tuning_markdown(tuning: Tuning) -> str:
    """What was found as Markdown: the statement, the held-out measurement and all rounds."""
    protocol = tuning.protocol
    about = (
        f"Chosen on the {protocol['split']} split with {code(protocol['features'])}; this table is of the "
        f"{protocol['heldout_split']} split with {code(protocol['heldout_features'])} and other seeds: "
        f"{len(protocol['heldout_seeds'])} of {protocol['num_images']:,} images, mean ± standard error over them."
    )
    command = code_block(protocol["command"], "bash")
    return printable("\n\n".join([tuning.statement, about, tuning.heldout_table(), rounds_markdown(tuning), command]) + "\n")


def save_defaults(model: Path, tuning: Tuning) -> bool:
    """Replace a saved pipeline by one with the defaults and the scheduler of a tuning; False = it has them already.

    Its weights stay the same files. A program that has loaded the model keeps what it has. A `ValueError` if the weights are
    no longer those that were measured, or a training is writing there.
    """
    pipeline = cast(CFGDDPMPipeline, load_pipeline(str(model), device="cpu"))
    same = weights_digest(pipeline.unet) == tuning.protocol["model_sha256"]
    require(same, "model", str(model), "its weights have changed since they were measured, tune it in another output_dir")
    assert tuning.scheduler is not None, "a candidate of the grid has one"
    before = dict(pipeline.config.get("sampling_defaults") or {}), dict(pipeline.scheduler.config)
    pipeline.set_sampling_defaults(tuning.sampling_defaults)
    pipeline.scheduler = build_scheduler(tuning.scheduler, pipeline.trained_config)
    if before == (pipeline.config["sampling_defaults"], dict(pipeline.scheduler.config)):
        return False

    def write(partial: Path) -> None:
        for name in NETWORKS:
            if (model / name).is_dir():
                shutil.copytree(model / name, partial / name)
        saved = partial / "saved"
        pipeline.save_pretrained(saved)
        for path in (*saved.glob("*.*"), *saved.glob("scheduler/*"), *saved.glob("*/*.py")):
            target = partial / path.relative_to(saved)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        shutil.rmtree(saved)

    run = find_run(model)
    place = OutputLock(model, option="model", file_name=model.name) if run is None else OutputLock(run, option="model")
    with place as lock:
        lock.take()
        publish_directory(model, write, keep_but=())
    return True


def _write_card(model: Path, *, has_defaults: bool) -> None:
    run = find_run(model)
    if run is not None:
        try_write_card(model, run)
    elif has_defaults and has_rendered_card(model):
        command = f"{as_typed('hf-ddpm write-card')} --model {shlex.quote(str(model))}"
        logger.warning("the card of %s says how it was sampled before; to write it again: %s", model, command)
