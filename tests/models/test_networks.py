"""What all networks that diffusers does not have share: calls, labels, saving with their code, training and resuming."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hidden_package import HIDE_PACKAGE
from safetensors.torch import load_file

import hf_ddpm
from hf_ddpm.cli import parse_config
from hf_ddpm.config import ModelConfig
from hf_ddpm.hub.card import card_files
from hf_ddpm.hub.contents import pipeline_files
from hf_ddpm.models.networks import NETWORKS
from hf_ddpm.models.unet import build_unet, check_unet, unet_arguments
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import load_pipeline
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

NAMES, NULL = {0: "cat", 1: "dog", 2: "frog"}, 3
OURS = [name for name in NETWORKS if name not in ("unet", "condition_unet")]  # which has tests of its own
PLAIN = [name for name in OURS if name != "class_map_unet"]  # those that can be unconditional

every_network = pytest.mark.parametrize("architecture", OURS)


def tiny(architecture: str, num_class_embeds: int | None = NULL + 1, null_embedding="learned", **options):
    torch.manual_seed(0)
    overrides = {"block_out_channels": [8, 16], "norm_num_groups": 4}
    arguments = unet_arguments("digits8", overrides, num_class_embeds=num_class_embeds, architecture=architecture, **options)
    null_label = None if num_class_embeds is None else NULL
    return build_unet(arguments, null_label=null_label, null_embedding=null_embedding, architecture=architecture).eval()


def tiny_pipeline(architecture: str, conditional: bool = True) -> CFGDDPMPipeline:
    labels = (NAMES, NULL) if conditional else ()
    network = tiny(architecture, NULL + 1 if conditional else None)
    pipeline = CFGDDPMPipeline(network, DDIMScheduler(timestep_spacing="trailing"), *labels)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: CFGDDPMPipeline, labels=("frog", 0), **options) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    pipeline.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 2.0, "num_inference_steps": 3, "output_type": "np"} | options
    return pipeline(labels and list(labels), generator=generators, **options).images


# Calls


@every_network
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("learned", [False, True])
def test_images_timesteps_and_labels_all_matter(architecture, channels, learned):
    network = tiny(architecture, channels=channels, learned_variance=learned)
    images, times, labels = torch.randn(2, channels, 8, 8), torch.tensor([3, 900]), torch.tensor([0, NULL])
    with torch.no_grad():
        output = network(images, times, class_labels=labels).sample
        assert output.shape == (2, channels * (1 + learned), 8, 8) and output.isfinite().all()
        assert torch.equal(network(images, times, labels, return_dict=False)[0], output)
        for other in ((images + 1, times, labels), (images, times + 1, labels), (images, times, labels.flip(0))):
            assert not torch.equal(network(*other).sample, output)
        # One timestep for all of them, as DDPMPipeline gives it, and a float, as samplers with sigmas do.
        alone = network(images[:1], torch.tensor(3), class_labels=labels[:1]).sample
        torch.testing.assert_close(alone, output[:1])
        assert torch.equal(network(images[:1], 3.0, class_labels=labels[:1]).sample, alone)


@pytest.mark.parametrize("architecture", PLAIN)
@pytest.mark.parametrize(("num_class_embeds", "labels"), [(4, None), (None, torch.tensor([1]))])
def test_labels_are_given_to_a_model_that_knows_them_and_to_no_other(architecture, num_class_embeds, labels):
    network = tiny(architecture, num_class_embeds)
    with pytest.raises(ValueError, match=f"num_class_embeds is {num_class_embeds}"):
        network(torch.zeros(1, 1, 8, 8), 3, labels)


@every_network
def test_a_zero_null_embedding_gets_no_gradient(architecture):
    network = tiny(architecture, null_embedding="zero")
    network(torch.randn(4, 1, 8, 8), torch.arange(4), torch.arange(4)).sample.square().mean().backward()
    weight = network.class_embedding.weight
    assert (weight[NULL] == 0).all() and (weight.grad[NULL] == 0).all()
    assert (weight.grad[:NULL] != 0).any(dim=1).all()


@every_network
def test_gradient_checkpointing_changes_no_gradient(architecture):
    gradients = []
    for recompute in (False, True):
        network = tiny(architecture)
        if recompute:
            network.enable_gradient_checkpointing()
        network.train()(torch.ones(2, 1, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 1])).sample.sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@every_network
def test_guidance_leads_away_from_the_null_label(architecture):
    pipeline = tiny_pipeline(architecture)
    latents, labels, steps = torch.randn(1, 1, 8, 8), torch.tensor([1]), torch.tensor(500)
    with torch.no_grad():
        with_label, without, guided = (pipeline.predict(latents, steps, labels, scale, 0.0) for scale in (1, 0, 3))
    assert not torch.equal(with_label, without)
    torch.testing.assert_close(guided, without + 3 * (with_label - without))


@every_network
def test_unknown_arguments_are_refused_with_the_networks_name(architecture):
    name = NETWORKS[architecture].__name__
    with pytest.raises(ValueError, match=f"`overrides.norm_num_group`: {name} has no such argument.*norm_num_groups"):
        unet_arguments("digits8", {"norm_num_group": 4}, architecture=architecture)
    with pytest.raises(ValueError, match=f"`overrides`: {name} cannot work with them") as refused:
        check_unet(unet_arguments("digits8", {"norm_num_groups": 5}, architecture=architecture), architecture)
    assert "\n" not in str(refused.value)


# Saving


@every_network
def test_save_and_load_keeps_everything(architecture, tmp_path):
    pipeline = tiny_pipeline(architecture)
    pipeline.save_pretrained(tmp_path / "model")
    again = CFGDDPMPipeline.from_pretrained(tmp_path / "model")
    assert type(again.unet) is NETWORKS[architecture]
    assert (again.id2label, again.null_label, again.config["unet"]) == (NAMES, NULL, pipeline.config["unet"])
    assert np.array_equal(draw(again), draw(pipeline))
    shared = CFGDDPMPipeline.from_pipe(again, scheduler=again.scheduler)
    assert shared.unet is again.unet
    shared.unet = pipeline.unet
    shared.save_pretrained(tmp_path / "again")
    for file in (f"unet/{architecture}.py", "unet/config.json", "pipeline.py"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["unet"] == list(pipeline.config["unet"])


WITHOUT_THE_PACKAGE = (
    HIDE_PACKAGE
    + """
import numpy as np, torch
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
options = {"guidance_scale": 2.0, "num_inference_steps": 3, "output_type": "np"}
root, *folders = sys.argv[1:]
for folder in folders:
    try:
        DiffusionPipeline.from_pretrained(folder)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error)
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    if folder.endswith("unconditional"):
        images = pipeline(batch_size=1, num_inference_steps=2, output_type="np").images
    else:
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        images = pipeline(["frog", 0], generator=generators, **options).images
        pipeline.save_pretrained(folder + "-resaved")
    np.save(folder + ".npy", images)
assert "hf_ddpm" not in sys.modules

del sys.meta_path[0]
sys.path.insert(0, root)
from hf_ddpm.pipeline import CFGDDPMPipeline

network = CFGDDPMPipeline.from_pretrained(folders[0]).unet
assert type(network).__module__ == "hf_ddpm.models.class_map_unet", "nothing else imports it, and no trust is needed"
"""
)


def test_saved_models_work_without_the_package_and_with_it(tmp_path):
    pipelines = {architecture: tiny_pipeline(architecture) for architecture in [*OURS, "unet"]}
    unconditional = {"conv_denoiser-unconditional": tiny_pipeline("conv_denoiser", conditional=False)}
    folders = {name: tmp_path / name for name in (*pipelines, *unconditional)}
    for name, pipeline in (pipelines | unconditional).items():
        pipeline.save_pretrained(folders[name])
    root = Path(hf_ddpm.__file__).parents[1]
    command = [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, root, *folders.values()]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    for name, pipeline in pipelines.items():
        np.testing.assert_allclose(np.load(f"{folders[name]}.npy"), draw(pipeline), rtol=0, atol=1e-5)
        resaved = tmp_path / f"{name}-resaved"
        code = [f"unet/{name}.py"] if name in OURS else []
        for file in (*code, "pipeline.py", "unet/diffusion_pytorch_model.safetensors"):
            assert (resaved / file).read_bytes() == (folders[name] / file).read_bytes()
        assert np.array_equal(draw(CFGDDPMPipeline.from_pretrained(resaved)), draw(pipeline)), "from the package again"
    for name in unconditional:
        assert np.load(f"{folders[name]}.npy").shape == (1, 8, 8, 1)


# Strangers


@every_network
def test_code_beside_the_weights_is_not_run_where_the_package_is(architecture, tmp_path):
    pipeline = tiny_pipeline(architecture)
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "unet" / f"{architecture}.py").write_text("raise SystemExit('run')")
    (tmp_path / "pipeline.py").write_text("raise SystemExit('run')")
    assert np.array_equal(draw(load_pipeline(str(tmp_path), device="cpu")), draw(pipeline))


@pytest.mark.parametrize("library", ["stranger", "hf_ddpm.models.tiny_unet", "os"])
def test_code_of_a_stranger_needs_trust(library, tmp_path):
    tiny_pipeline("tiny_unet").save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"unet": [library, "TinyUNet"]}))
    (tmp_path / "unet" / f"{library}.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load_pipeline(str(tmp_path), device="cpu")


HOSTILE = {
    "channels": {"block_out_channels": [8, 10**9]},
    "channels that fit the limit and not the weights": {"block_out_channels": [8, 65_536]},
    "classes that fit the limit and not the weights": {"num_class_embeds": 90_000},
    "pixels": {"sample_size": 10**6},
    "groups": {"norm_num_groups": 0},
    "no levels": {"block_out_channels": []},
    "levels": {"block_out_channels": [8] * 1000},
}


@every_network
@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
def test_hostile_configs_are_refused_before_anything_is_built(architecture, values, tmp_path):
    tiny_pipeline(architecture).save_pretrained(tmp_path)
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(ValueError) as refused:
        load_pipeline(str(tmp_path), device="cpu")
    assert "\n" not in str(refused.value) and "memory" not in str(refused.value)


def test_maps_larger_than_the_weights_are_refused(tmp_path):
    tiny_pipeline("class_map_unet").save_pretrained(tmp_path)
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 1024}))
    with pytest.raises(ValueError, match="safetensors: the shape of .*to_map.weight is"):
        load_pipeline(str(tmp_path), device="cpu")


# The Hub


@pytest.mark.parametrize(("architecture", "conditional"), [("class_map_unet", True), ("conv_denoiser", False)])
def test_a_push_takes_the_code_along_and_the_card_says_so(architecture, conditional, tmp_path):
    tiny_pipeline(architecture, conditional).save_pretrained(tmp_path)
    assert f"unet/{architecture}.py" in pipeline_files(tmp_path)
    card = card_files(tmp_path)["README.md"].decode()
    assert f"| Network | `{NETWORKS[architecture].__name__}` | `unet/{architecture}.py` |" in card
    assert f"`pipeline.py` and `unet/{architecture}.py` from this repository; read them first" in card
    assert 'DiffusionPipeline.from_pretrained("path/to/this/folder", trust_remote_code=True)' in card
    assert "UNet2DModel" not in card, "diffusers does not have the network"


def test_a_push_without_the_code_is_refused(tmp_path):
    tiny_pipeline("tiny_unet").save_pretrained(tmp_path)
    (tmp_path / "unet" / "tiny_unet.py").unlink()
    with pytest.raises(ValueError, match="unet/tiny_unet.py, is missing.*save_pretrained"):
        pipeline_files(tmp_path)


# Training


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = ("training/model.safetensors", "training/optimizer.safetensors", "unet/diffusion_pytorch_model.safetensors")
    return {f"{file}:{name}": value for file in files for name, value in load_file(checkpoint / file).items()}


@pytest.mark.parametrize(
    ("architecture", "precision"), [("class_map_unet", "bf16"), ("conv_denoiser", "fp32"), ("tiny_unet", "bf16")]
)
def test_a_resumed_run_is_bit_equal(architecture, precision, tmp_path, tiny_options):
    mine = [option for option in tiny_options if "attention_head_dim" not in option]
    options = [
        *mine, f"--model.architecture={architecture}", "--max_train_steps=4", "--checkpoint.every_steps=2",
        f"--mixed_precision={precision}", "--model.null_embedding=zero", "--schedule.variance_type=learned_range",
        f"--output_dir={tmp_path / 'run'}", "--data.max_images=64",
    ]  # fmt: skip
    train(parse_config(TrainConfig, options))
    last = tmp_path / "run" / "checkpoints" / "step-00000004"
    whole = tensors(last)
    shutil.rmtree(last)
    shutil.rmtree(tmp_path / "run" / "pipeline")
    train(parse_config(TrainConfig, [*options, "--resume=auto"]))
    resumed = tensors(last)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    begun = tensors(tmp_path / "run" / "checkpoints" / "step-00000002")
    assert any(not torch.equal(begun[name], whole[name]) for name in whole)
    pipeline = load_pipeline(str(tmp_path / "run" / "pipeline"), device="cpu")
    assert type(pipeline.unet) is NETWORKS[architecture] and pipeline.unet.config.out_channels == 2
    assert draw(pipeline, (3, 7), num_inference_steps=2).shape == (2, 8, 8, 1)


def test_every_name_on_the_command_line_is_a_network():
    assert set(get_args(get_type_hints(ModelConfig)["architecture"])) == set(NETWORKS) - {"condition_unet"}
