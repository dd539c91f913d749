"""A folder that is a web site, and a static Space of the Hub, in which visitors sample a model: `export_site(...)`."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.sampling import ImagePipeline, default_guidance_scale, image_shape_of
from hf_ddpm.text import one_line
from hf_ddpm.web.engine import VERSION, engine_files
from hf_ddpm.web.network import WeightBits, export_network
from hf_ddpm.web.samplers import export_samplers

PAGE = Path(__file__).parent / "page"
README = "README.md.j2"
ENGINE, NETWORK, FACTS = "onnxruntime-web", "model.onnx", "model.json"
DEFAULT_STEPS = 20
DEFAULT_NUMBER = 4


@dataclass(frozen=True, kw_only=True)
class Site:
    """What was exported."""

    folder: Path
    num_bytes: int
    """All files together."""
    model_bytes: int
    """The network."""


def export_site(
    pipeline: ImagePipeline,
    folder: Path,
    *,
    model: str,
    title: str | None = None,
    weight_bits: WeightBits = 16,
    engine_dir: Path | None = None,
) -> Site:
    """Write the page, the network, its samplers and the engine that runs it into a new or empty folder.

    Args:
        pipeline: a model of classes or an unconditional one.
        model: folder or Hub id of the model, for the command that generates the same images.
        title: of the page; None = the name of the model.
        weight_bits: see `export_network`.
        engine_dir: see `engine_files`.

    Raises:
        ValueError: the page cannot show such a model, or the exported network differs from it.
    """
    facts = model_facts(pipeline, model, title)
    hub_id = None if Path(model).is_dir() else model
    engine = engine_files(engine_dir)
    with Progress("exporting the network"):
        network = export_network(pipeline.unet.cpu(), weight_bits=weight_bits)
    facts["bytes"] = len(network) + sum(engine[name].stat().st_size for name in engine if name.endswith(("mjs", "wasm")))

    def write(partial: Path) -> None:
        for file in PAGE.iterdir():
            if file.suffix in (".html", ".css", ".js"):
                shutil.copyfile(file, partial / file.name)
        (partial / NETWORK).write_bytes(network)
        (partial / FACTS).write_text(json.dumps(facts, separators=(",", ":")), encoding="utf-8")
        (partial / "README.md").write_text(render_readme(facts, weight_bits, hub_id), encoding="utf-8")
        (partial / ENGINE).mkdir()
        for name, file in engine.items():
            shutil.copyfile(file, partial / ENGINE / name)

    publish_directory(folder, write)
    num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Site(folder=folder, num_bytes=num_bytes, model_bytes=len(network))


def model_facts(pipeline: ImagePipeline, model: str, title: str | None = None) -> dict[str, Any]:
    """What the page knows of a model, as JSON values; a `ValueError` if it cannot show it."""
    what = f"model is {model!r}"
    if isinstance(pipeline, DCGANPipeline) or not isinstance(pipeline, CFGDDPMPipeline):
        raise ValueError(f"{what}: the page shows steps of a diffusion model, and a GAN has none")
    channels, height, width = image_shape_of(pipeline)
    if channels not in (1, 3):
        raise ValueError(f"{what}: its images have {channels} channels, the page shows 1 (gray) or 3 (red, green, blue)")
    if pipeline.pixel_type != "uint8":
        raise ValueError(f"{what}: its images are {pipeline.pixel_type}, the page shows 8 bits a channel")
    if getattr(pipeline, "condition", "class") not in ("class", None):
        raise ValueError(f"{what}: its images are made for {pipeline.condition}, the page offers single classes")
    if getattr(pipeline, "guide", None) is not None:
        raise ValueError(f"{what}: the page cannot run the guide that is saved with it, save the model without it")
    if (guidance := pipeline.sampling_defaults.get("guidance", "cfg")) != "cfg":
        raise ValueError(f"{what}: its saved guidance is {guidance}, and the page has cfg alone, save the model without it")
    num_classes, names = pipeline.num_classes, pipeline.id2label or {}
    samplers = export_samplers(pipeline)
    first = next(iter(samplers.values()))
    # The page begins with the saved scheduler if it has that one; another one needs another number of steps.
    is_saved = isinstance(pipeline.scheduler, (DDIMScheduler, DPMSolverMultistepScheduler))
    has_steps = pipeline.is_distilled or (is_saved and "num_inference_steps" in pipeline.sampling_defaults)
    steps = pipeline.default_steps if has_steps else DEFAULT_STEPS
    interval, total = pipeline.sampling_defaults.get("guidance_interval"), pipeline.scheduler.config.num_train_timesteps
    return {
        "title": one_line(title or default_title(model), 100),
        "model": shown_name(model),
        "shape": [channels, height, width],
        "classes": None if num_classes is None else [one_line(names.get(i, str(i)), 100) for i in range(num_classes)],
        "null_label": pipeline.null_label,
        "guidance_interval": interval and [bound * total for bound in interval],
        "samplers": samplers,
        "defaults": {
            "sampler": next(iter(samplers)),
            "steps": min(map(int, first["steps"]), key=lambda count: abs(math.log(count / steps))),
            "guidance": default_guidance_scale(pipeline),
            "number": DEFAULT_NUMBER,
        },
    }


def default_title(model: str) -> str:
    """The name of a run, or of a model on the Hub."""
    path = Path(model)
    path = path.resolve() if path.is_dir() else path
    return path.parent.name if path.name == "pipeline" else path.name


def shown_name(model: str) -> str:
    """A model as the page names it: without the folders of this machine above a run."""
    path = Path(model)
    return "/".join(path.parts[-3:]) if path.is_absolute() and len(path.parts) > 3 else model


def render_readme(facts: dict[str, Any], weight_bits: WeightBits, hub_id: str | None) -> str:
    """README.md of the folder, whose first lines make a static Space of it; `hub_id` is the model there, None = no model."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((PAGE / README).read_text(encoding="utf-8"))
    height, width = facts["shape"][1:]
    return (
        template.render(
            facts=facts,
            title=json.dumps(facts["title"], ensure_ascii=False),
            model=None if hub_id is None else json.dumps(hub_id),
            size=f"{height} x {width}",
            weight_bits=weight_bits,
            engine=ENGINE,
            version=VERSION,
        ).rstrip()
        + "\n"
    )
