"""Presets, overrides and refusals of the U-Net, and a null embedding that stays zero."""

import inspect
import json
import re

import pytest
import torch

from hf_ddpm.config import EMAConfig, OptimConfig
from hf_ddpm.models import unet as module
from hf_ddpm.models.unet import UNET_PRESETS, build_unet, check_unet, read_architecture, unet_arguments
from hf_ddpm.training.optim import build_ema, build_optimizer

NULL = 3


def tiny_arguments(**options) -> dict:
    overrides = {"block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": None}
    return unet_arguments("digits8", overrides, **options)


# Presets


def test_parameter_counts_are_those_of_the_comments():
    stated = dict(re.findall(r'"([\w-]+)": +dict\(.*# ([\d.]+) M', inspect.getsource(module)))
    assert stated.keys() == UNET_PRESETS.keys()
    for name, millions in stated.items():
        with torch.device("meta"):
            unet = build_unet(unet_arguments(name))
        assert f"{sum(parameter.numel() for parameter in unet.parameters()) / 1e6:.2f}" == millions


@pytest.mark.parametrize("preset", ["digits8", "mnist28"])
def test_small_presets_map_images_to_images(preset):
    arguments = unet_arguments(preset, num_class_embeds=11)
    unet = build_unet(arguments).eval()
    size = arguments["sample_size"]
    with torch.no_grad():
        output = unet(torch.randn(2, 1, size, size), torch.tensor([0, 999]), class_labels=torch.tensor([0, 10])).sample
    assert output.shape == (2, 1, size, size) and output.isfinite().all()


def test_reading_a_preset_cannot_spoil_it():
    read_architecture("digits8")["layers_per_block"] = 9
    assert read_architecture("digits8")["layers_per_block"] == 1


# Arguments


def test_overrides_win_and_the_rest_follows_the_data():
    arguments = unet_arguments("digits8", {"dropout": 0.1}, image_size=16, channels=3, num_class_embeds=11)
    unet = build_unet(arguments)
    assert (unet.config.dropout, unet.config.sample_size, unet.config.layers_per_block) == (0.1, 16, 1)
    assert (unet.config.in_channels, unet.config.out_channels, unet.config.num_class_embeds) == (3, 3, 11)
    assert unet.class_embedding.weight.shape[0] == 11


@pytest.mark.parametrize("channels", [1, 3])
def test_a_learned_variance_doubles_the_channels_that_come_out(channels):
    arguments = tiny_arguments(channels=channels, learned_variance=True)
    with torch.no_grad():
        output = build_unet(arguments)(torch.randn(2, channels, 8, 8), torch.tensor([0, 999])).sample
    assert output.shape == (2, 2 * channels, 8, 8)
    check_unet(arguments)


def test_an_unconditional_model_has_no_class_embedding():
    unet = build_unet(unet_arguments("digits8"))
    assert unet.config.num_class_embeds is None and unet.class_embedding is None


def test_an_unknown_override_is_refused_with_near_ones():
    with pytest.raises(ValueError, match="`overrides.dropuot`: .*near ones: dropout"):
        unet_arguments("digits8", {"dropuot": 0.1})


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("sample_size", "image_size"),
        ("in_channels", "channels"),
        ("out_channels", "channels"),
        ("num_class_embeds", "class_conditional"),
    ],
)
def test_arguments_that_follow_the_data_cannot_be_overridden(name, option):
    with pytest.raises(ValueError, match=f"`overrides.{name}` follows the data: set `{option}`"):
        unet_arguments("digits8", {name: 3})


@pytest.mark.parametrize(("preset", "good", "bad"), [("digits8", 10, 9), ("mnist28", 32, 30), ("cifar32", 24, 20)])
def test_image_sizes_that_do_not_halve_are_refused(preset, good, bad):
    assert unet_arguments(preset, image_size=good)["sample_size"] == good
    with pytest.raises(ValueError, match=f"image_size is {bad}: .*give a multiple of"):
        unet_arguments(preset, image_size=bad)


@pytest.mark.parametrize(
    "overrides",
    [
        {"block_out_channels": [30, 60]},
        {"block_out_channels": [32, 64, 128]},
        {"block_out_channels": [-32, 64]},
        {"block_out_channels": "wide"},
        {"block_out_channels": 32},
        {"layers_per_block": "many"},
        {"norm_num_groups": 0},
        {"act_fn": "bogus"},
        {"down_block_types": ["DownBlock2D", "NoBlock2D"]},
        {"dropout": 2},
        {"norm_eps": "x"},
        {"freq_shift": "x"},
        {"layers_per_block": -1},
        {"upsample_type": "bogus"},
        {"time_embedding_type": "bogus"},
    ],
    ids=str,
)
def test_what_diffusers_refuses_names_the_option(overrides):
    with pytest.raises(ValueError, match="`overrides`: UNet2DModel cannot work with them"):
        check_unet(unet_arguments("digits8", overrides, image_size=8))


@pytest.mark.parametrize("preset", UNET_PRESETS)
def test_presets_pass_the_check(preset):
    check_unet(unet_arguments(preset))


def test_the_check_refuses_what_would_not_fit_and_allocates_no_memory():
    overrides = {"block_out_channels": [2**16, 2**16], "norm_num_groups": 8, "add_attention": False}
    with pytest.raises(ValueError, match="would have 1,159,648,837,633 parameters, at most 2,000,000,000"):
        check_unet(unet_arguments("digits8", overrides))


# A folder with a config.json


def test_a_saved_model_is_an_architecture(tmp_path):
    build_unet(tiny_arguments(num_class_embeds=4)).save_pretrained(tmp_path)
    arguments = unet_arguments(str(tmp_path), {"dropout": 0.2}, num_class_embeds=11)
    again = build_unet(arguments)
    assert (again.config.block_out_channels, again.config.dropout) == ([8, 16], 0.2)
    assert (again.config.num_class_embeds, again.config.sample_size) == (11, 8)


def test_a_saved_model_fixes_its_channels(tmp_path):
    build_unet(tiny_arguments()).save_pretrained(tmp_path)
    assert unet_arguments(str(tmp_path), channels=1)["in_channels"] == 1
    with pytest.raises(ValueError, match="channels is 3: .* takes 1 channels"):
        unet_arguments(str(tmp_path), channels=3)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_a_saved_model_does_not_decide_on_a_learned_variance(tmp_path, saved, asked):
    build_unet(tiny_arguments(learned_variance=saved)).save_pretrained(tmp_path)
    again = build_unet(unet_arguments(str(tmp_path), learned_variance=asked))
    assert (again.config.in_channels, again.config.out_channels) == (1, 2 if asked else 1)


@pytest.mark.parametrize("channels", [17, None, 0])
def test_a_model_of_other_than_images_is_refused(tmp_path, channels):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "in_channels": channels}))
    with pytest.raises(ValueError, match=f"preset is .* takes {channels} channels: give a model with 1 to 16"):
        unet_arguments(str(tmp_path), image_size=8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not readable JSON"),
        ("{", "not readable JSON"),
        ("[]", "not that of a UNet2DModel"),
        (json.dumps({"_class_name": "AutoencoderKL"}), "not that of a UNet2DModel"),
        (json.dumps({"_class_name": "UNet2DModel"}), "image_size is None: .* does not fix one"),
    ],
)
def test_folders_without_an_architecture_are_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        unet_arguments(str(tmp_path))


@pytest.mark.parametrize("preset", ["digits9", "./missing", "/missing", "a/b/c"])
def test_unknown_presets_are_refused(preset):
    with pytest.raises(ValueError, match="preset is .*, neither one of digits8, "):
        unet_arguments(preset)


# The null embedding


def train_embedding(null_embedding: str, optimizer: str):
    """Five steps on labels 0, 1 and null: the class embedding before, after, and averaged."""
    torch.manual_seed(0)
    unet = build_unet(tiny_arguments(num_class_embeds=NULL + 1), null_label=NULL, null_embedding=null_embedding)
    config = OptimConfig(optimizer=optimizer, weight_decay=0.1, learning_rate=1e-2)
    optimizer, ema = build_optimizer(unet.parameters(), config), build_ema(unet.parameters(), EMAConfig())
    position = [name for name, _ in unet.named_parameters()].index("class_embedding.weight")
    before = unet.class_embedding.weight.detach().clone()
    for _ in range(5):
        output = unet(torch.randn(4, 1, 8, 8), torch.arange(4), class_labels=torch.tensor([0, 1, NULL, NULL])).sample
        output.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.step(unet.parameters())
    return before, unet.class_embedding.weight.detach(), ema.shadow_params[position]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_zero_null_embedding_stays_exactly_zero(optimizer):
    rows = train_embedding("zero", optimizer)
    assert all((row[NULL] == 0).all() for row in rows)
    before, after, averaged = rows
    assert (after[:2] != before[:2]).any(dim=1).all() and (averaged[:2] != before[:2]).any(dim=1).all()


def test_a_learned_null_embedding_moves():
    before, after, averaged = train_embedding("learned", "adamw")
    assert (before[NULL] != 0).any()
    assert (after[NULL] != before[NULL]).any() and (averaged[NULL] != before[NULL]).any()


def test_a_zero_null_embedding_changes_no_other_row():
    arguments = tiny_arguments(num_class_embeds=NULL + 1)
    torch.manual_seed(0)
    learned = build_unet(arguments, null_label=NULL).state_dict()
    torch.manual_seed(0)
    zero = build_unet(arguments, null_label=NULL, null_embedding="zero").state_dict()
    assert learned.keys() == zero.keys()
    assert torch.equal(learned["class_embedding.weight"][:NULL], zero["class_embedding.weight"][:NULL])


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1e9, float("nan"), "deleted"], ids=repr)
def test_every_key_of_a_given_config_with_values_that_cannot_work(tiny_unet, tmp_path, value):
    """`preset` is a stranger's folder: a network can be built from it, or one line says why not."""
    unet = tiny_unet()
    unet.save_config(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    for key in content:
        changed = {**content, key: value}
        if value == "deleted":
            del changed[key]
        (tmp_path / "config.json").write_text(json.dumps(changed))
        try:
            check_unet(unet_arguments(str(tmp_path), image_size=8, num_class_embeds=4))
        except ValueError as refused:
            message = str(refused)
            assert "\n" not in message and len(message) < 600, message


@pytest.mark.parametrize("architecture", ["unet", "class_map_unet", "conv_denoiser", "tiny_unet"])
def test_every_network_takes_images_that_are_not_square_of_many_channels(architecture):
    arguments = unet_arguments(
        "mnist28", image_size=(48, 32), channels=16, num_class_embeds=3, learned_variance=True, architecture=architecture
    )
    assert (arguments["sample_size"], arguments["in_channels"], arguments["out_channels"]) == ((48, 32), 16, 32)
    check_unet(arguments, architecture)


def test_a_square_size_is_one_number_however_it_is_given():
    assert unet_arguments("mnist28", image_size=(32, 32))["sample_size"] == 32


@pytest.mark.parametrize(
    "size, message",
    [
        (30, "image_size is 30: `preset` mnist28 halves images 2 times, give a multiple of 4, such as 32"),
        ((50, 30), "image_size is [50, 30]: `preset` mnist28 halves images 2 times, give a multiple of 4, such as [48, 32]"),
        ((48, 1), "image_size is [48, 1]: `preset` mnist28 halves images 2 times, give a multiple of 4, such as [48, 4]"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused_with_the_nearest_that_can(size, message):
    with pytest.raises(ValueError) as refused:
        unet_arguments("mnist28", image_size=size)
    assert str(refused.value) == message
