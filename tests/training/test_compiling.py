"""A compiled network is trained and saved like any other."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hf_ddpm.cli import dump_config, parse_config
from hf_ddpm.models.unet import build_unet, unet_arguments
from hf_ddpm.training.compiling import check_compiling, compile_network
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.resume_checks import check_changes

BASE = ["--output_dir=runs/a", "--max_train_steps=1", "--data.source=digits"]
SMALL = {"block_out_channels": [8, 16], "norm_num_groups": 4}
NETWORKS = {
    "unet": {**SMALL, "attention_head_dim": 4},
    "class_map_unet": {**SMALL, "attention_head_dim": 4},
    "conv_denoiser": SMALL,
    "tiny_unet": SMALL,
}
# Dynamo looks for a gradient of the tensors between blocks, and hides the warning, but not from pytest.
DYNAMO_READS_GRADIENTS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ([], "none"),
        (["--compile"], "full"),
        (["--compile=true"], "full"),
        (["--compile=false"], "none"),
        (["--compile", "regional"], "regional"),
    ],
)
def test_options_of_earlier_versions_are_read(words, mode, tmp_path):
    config = parse_config(TrainConfig, BASE + words)
    assert config.compile == mode
    recipe = tmp_path / "config.yaml"
    recipe.write_text(dump_config(config))
    assert parse_config(TrainConfig, ["--config", str(recipe)]) == config


@pytest.mark.parametrize(("written", "mode"), [("true", "full"), ("false", "none"), ("regional", "regional")])
def test_recipes_of_earlier_versions_are_read(written, mode, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"compile: {written}\n")
    assert parse_config(TrainConfig, ["--config", str(recipe), *BASE]).compile == mode


def test_a_wrong_mode_is_refused(refusal_of):
    assert "did you mean regional?" in refusal_of(TrainConfig, *BASE, "--compile=regionl")


@pytest.mark.parametrize(("saved", "now"), [(True, "full"), (False, "none")])
def test_a_checkpoint_of_an_earlier_version_is_of_the_same_mode(saved, now):
    config = dataclasses.asdict(parse_config(TrainConfig, [*BASE, f"--compile={now}"]))
    assert check_changes({**config, "compile": saved}, config) == []
    [warning] = check_changes({**config, "compile": saved}, {**config, "compile": "regional"})
    assert warning == f"compile was {now!r} and is now 'regional'"


def test_without_a_compiler_it_is_refused_before_anything_is_written(message_of, monkeypatch, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device has its own compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    message = message_of("train", "--compile=regional")
    assert "--compile is 'regional': torch.compile does not work here, use none" in message
    assert "no-such-compiler" in message


@DYNAMO_READS_GRADIENTS
@pytest.mark.parametrize("mode", ["regional", "full"])
@pytest.mark.parametrize("architecture", list(NETWORKS))
def test_what_is_compiled_computes_the_same_and_keeps_its_names(architecture, mode):
    torch._dynamo.reset()
    plain, compiled = networks(architecture)
    compile_network(compiled, mode, backend="eager")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    counters = torch._dynamo.utils.counters
    counters.clear()
    assert_equal_gradients(plain, compiled, atol=0)
    assert counters["frames"]["ok"] == counters["frames"]["total"] > 0
    assert (counters["stats"]["unique_graphs"] == 1) == (mode == "full")


@DYNAMO_READS_GRADIENTS
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["regional", "full"])
@pytest.mark.parametrize("architecture", list(NETWORKS))
def test_generated_code_computes_the_same(architecture, mode):
    check_compiling(mode, torch.device("cpu"))
    plain, compiled = networks(architecture)
    compile_network(compiled, mode)
    assert_equal_gradients(plain, compiled, atol=1e-4)


def networks(architecture: str) -> list[torch.nn.Module]:
    """Two networks with the same weights."""
    arguments = unet_arguments("digits8", NETWORKS[architecture], num_class_embeds=11, architecture=architecture)
    built = []
    for _ in range(2):
        torch.manual_seed(0)
        built.append(build_unet(arguments, architecture=architecture))
    return built


def assert_equal_gradients(plain: torch.nn.Module, compiled: torch.nn.Module, atol: float) -> None:
    images, timesteps, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 500]), torch.tensor([1, 10])
    for network in (plain, compiled):
        network(images, timesteps, class_labels=labels).sample.square().sum().backward()
    for (name, weight), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        if weight.grad is not None:
            assert torch.allclose(weight.grad, other.grad, atol=atol, rtol=0), name
