"""The snippets of a model card: every way in which the model loads, each complete in itself."""

from __future__ import annotations

from hf_ddpm.hub.facts import PipelineFacts
from hf_ddpm.markdown import code, code_block, python_literal

GUIDANCE_SCALE = 1.5


def use_section(pipeline: PipelineFacts, model: str) -> str:
    """Loading and sampling snippets.

    Args:
        pipeline: what they load.
        model: its id on the Hub, or what stands for its folder.
    """
    name = python_literal(model)
    if not pipeline.is_ours:
        lines = ["from diffusers import DiffusionPipeline", "", f"pipeline = DiffusionPipeline.from_pretrained({name})"]
        return code_block("\n".join(lines), "python")
    parts = ["With the `hf_ddpm` package:", code_block(_package_snippet(pipeline, name), "python"), _explain_call(pipeline)]
    parts += [
        "Another sampler, by name (`ddim`, `unipc`, `heun` and the others of `hf_ddpm.schedulers`):",
        code_block(_sampler_snippet(pipeline, name), "python"),
    ]
    if pipeline.has_code:
        files = "the `pipeline.py` of this repository; read it first:"
        if pipeline.network_code is not None:
            files = f"`pipeline.py` and {code(pipeline.network_code)} of this repository; read them first:"
        parts += [
            f"Without the package, diffusers runs {files}",
            code_block(_generic_snippet(pipeline, name), "python"),
        ]
    if pipeline.num_classes is None:
        parts += ["As a plain pipeline of diffusers:", code_block(_plain_snippet(pipeline, name), "python")]
    return "\n\n".join(parts)


def _package_snippet(pipeline: PipelineFacts, name: str) -> str:
    return "\n".join(
        [
            "import torch",
            "from hf_ddpm import CFGDDPMPipeline",
            "",
            f"pipeline = CFGDDPMPipeline.from_pretrained({name})",
            "generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]  # one an image",
            f"images = pipeline({_what(pipeline)}, num_inference_steps={_steps(pipeline, 50)}, generator=generators).images",
        ]
    )


def _sampler_snippet(pipeline: PipelineFacts, name: str) -> str:
    return "\n".join(
        [
            "from hf_ddpm import load_pipeline",
            "",
            f'pipeline = load_pipeline({name}, scheduler="dpmsolver++")',
            f"images = pipeline({_what(pipeline)}, num_inference_steps={_steps(pipeline, 20)}).images",
        ]
    )


def _generic_snippet(pipeline: PipelineFacts, name: str) -> str:
    return "\n".join(
        [
            "from diffusers import DiffusionPipeline",
            "",
            f"repo = {name}",
            "pipeline = DiffusionPipeline.from_pretrained(repo, custom_pipeline=repo, trust_remote_code=True)",
            f"images = pipeline({_what(pipeline)}, num_inference_steps={_steps(pipeline, 50)}).images",
        ]
    )


def _plain_snippet(pipeline: PipelineFacts, name: str) -> str:
    trust = "" if pipeline.network_code is None else ", trust_remote_code=True"
    return "\n".join(
        [
            "from diffusers import DDPMPipeline",
            "",
            f"pipeline = DDPMPipeline.from_pretrained({name}{trust})",
            f"images = pipeline(batch_size=2, num_inference_steps={_steps(pipeline, 1000)}).images",
        ]
    )


def _steps(pipeline: PipelineFacts, usual: int) -> int:
    return min(usual, pipeline.scheduler.get("num_train_timesteps", usual))


def _what(pipeline: PipelineFacts) -> str:
    """Arguments that ask for two images."""
    if pipeline.num_classes is None:
        return "num_images_per_prompt=2"
    labels = ", ".join(_examples(pipeline))
    guidance = "" if pipeline.null_label is None else f", guidance_scale={GUIDANCE_SCALE}"
    return f"class_labels=[{labels}]{guidance}"


def _examples(pipeline: PipelineFacts) -> list[str]:
    """The first class, by its name where no other class bears it, and the last one by its id."""
    names = list(pipeline.id2label.values())
    first = pipeline.id2label.get(0)
    by_name = first is not None and names.count(first) == 1
    return [python_literal(first) if by_name else "0", str(pipeline.num_classes - 1)]


def _explain_call(pipeline: PipelineFacts) -> str:
    text = "An image depends on its seed"
    if pipeline.num_classes is not None:
        text += " and class"
    text += " alone: it is the same in any batch that is given one generator an image."
    if pipeline.num_classes is not None:
        text += f" `class_labels` takes names (str) or ids (int, 0 to {pipeline.num_classes - 1})."
    if pipeline.null_label is not None:
        text += (
            " `guidance_scale` s means `u + s (c - u)`, with c and u the outputs of the network with and without the class:"
            " 1 is the conditional model alone, 0 the unconditional one; the label of no class is"
            f" {code(pipeline.null_label)} (`model_index.json`)."
        )
    return text
