"""ClassMapUNet: a label reaches the output only through the maps of the requested stages."""

import itertools
import math

import pytest
import torch
from diffusers import UNet2DModel

from hf_ddpm.cli import parse_config
from hf_ddpm.models.class_map_unet import STAGES, ClassMapBlock, ClassMapUNet
from hf_ddpm.models.unet import UNET_PRESETS, build_unet, check_unet, unet_arguments
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.training.load_data import load_data
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.own_objects import NO_OBJECTS

SUBSETS = [stages for count in (1, 2, 3) for stages in itertools.combinations(STAGES, count)]


def tiny(stages=("down", "up"), **options) -> ClassMapUNet:
    torch.manual_seed(0)
    overrides = {"block_out_channels": [8, 16], "norm_num_groups": 4, "class_map_stages": stages, **options}
    arguments = unet_arguments("digits8", overrides, num_class_embeds=3, architecture="class_map_unet")
    return build_unet(arguments, architecture="class_map_unet").eval()


def outputs_of_stages(unet: ClassMapUNet, label: int) -> dict[str, torch.Tensor]:
    """What leaves each stage for one and the same noisy image."""
    last = {"down": unet.down_blocks[-1], "mid": unet.mid_block, "up": unet.up_blocks[-1]}
    seen = {}
    hooks = [
        block.register_forward_hook(lambda module, inputs, output, stage=stage: seen.update({stage: output}))
        for stage, block in last.items()
    ]
    sample = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        unet(sample, 500, torch.tensor([label]))
    for hook in hooks:
        hook.remove()
    seen["down"] = seen["down"][0]
    return seen


@pytest.mark.parametrize("stages", SUBSETS, ids="-".join)
def test_the_label_reaches_the_requested_stages_and_those_after_them(stages):
    unet = tiny(stages)
    maps = [name for name, module in unet.named_modules() if isinstance(module, ClassMapBlock)]
    assert {name.split("_")[0] for name in maps} == set(stages)
    first, second = (outputs_of_stages(unet, label) for label in (0, 1))
    begins = STAGES.index(stages[0])
    for position, stage in enumerate(STAGES):
        assert torch.equal(first[stage], second[stage]) == (position < begins)


@pytest.mark.parametrize("stages", SUBSETS, ids="-".join)
def test_without_its_maps_the_network_knows_no_class(stages):
    unet = tiny(stages)
    for module in unet.modules():
        if isinstance(module, ClassMapBlock):
            module.to_map.weight.data.zero_()
    first, second = (outputs_of_stages(unet, label) for label in (0, 1))
    assert all(torch.equal(first[stage], second[stage]) for stage in STAGES)


def test_every_map_matters():
    unet = tiny(STAGES)
    blocks = [module for module in unet.modules() if isinstance(module, ClassMapBlock)]
    assert len(blocks) == 2 + 2 + 4, "all the residual blocks of the network"
    before = outputs_of_stages(unet, 0)["up"]
    for block in blocks:
        bias = block.to_map.bias.data.clone()
        block.to_map.bias.data += 1
        assert not torch.equal(outputs_of_stages(unet, 0)["up"], before)
        block.to_map.bias.data = bias
    assert torch.equal(outputs_of_stages(unet, 0)["up"], before)


def test_a_map_is_one_number_a_pixel_made_from_the_label_alone():
    block = next(module for module in tiny().modules() if isinstance(module, ClassMapBlock))
    taken = []
    block.block.register_forward_pre_hook(lambda module, inputs: taken.append(inputs))
    hidden, time_embedding, class_embedding = torch.randn(2, 8, 8, 8), torch.randn(2, 32), torch.randn(2, 32)
    block(hidden, torch.cat([time_embedding, class_embedding], dim=1))
    ((image, given_time),) = taken
    assert torch.equal(image[:, :8], hidden) and torch.equal(given_time, time_embedding)
    expected = class_embedding @ block.to_map.weight.T + block.to_map.bias
    torch.testing.assert_close(image[:, 8].flatten(1), expected)


def test_the_parameters_are_those_of_the_unet_and_of_the_maps():
    overrides = {"class_map_stages": STAGES}
    with torch.device("meta"):
        arguments = unet_arguments("digits8", overrides, num_class_embeds=11, architecture="class_map_unet")
        mapped = build_unet(arguments, architecture="class_map_unet")
        del arguments["class_map_stages"]
        plain = UNet2DModel(**arguments)
    extra = 0
    for block in (module for module in mapped.modules() if isinstance(module, ClassMapBlock)):
        inner, old_in, out = block.block, block.block.in_channels, block.block.out_channels
        extra += (128 + 1) * math.prod(block.size)  # the dense layer
        extra += 9 * out  # one channel more for the first convolution
        extra += out if old_in != out else (old_in + 1) * out + out  # and for the shortcut, which may have been none
        assert inner.conv_shortcut.in_channels == old_in + 1
    count = sum(parameter.numel() for parameter in mapped.parameters())
    assert count == sum(parameter.numel() for parameter in plain.parameters()) + extra


@pytest.mark.parametrize("preset", UNET_PRESETS)
def test_every_preset_can_have_maps(preset):
    check_unet(unet_arguments(preset, architecture="class_map_unet"), "class_map_unet")


@pytest.mark.parametrize(
    "overrides",
    [
        {"downsample_type": "resnet", "upsample_type": "resnet"},
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
        {"mid_block_type": None},
        {"time_embedding_dim": 24},
    ],
    ids=str,
)
def test_other_residual_blocks_can_have_maps(overrides):
    unet = tiny(**overrides)
    first, second = (unet(torch.zeros(1, 1, 8, 8), 3, torch.tensor([label])).sample for label in (0, 1))
    assert first.shape == (1, 1, 8, 8) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"class_map_stages": []}, r"class_map_stages is \[\]: give one or more of down, mid, up"),
        ({"class_map_stages": "down"}, "class_map_stages is "),
        ({"class_map_stages": ["middle"]}, r"class_map_stages is \['middle'\]"),
        ({"class_map_stages": ["up", "up"]}, "give one or more"),
        ({"class_map_stages": 3}, "'int' object is not iterable"),
        ({"class_map_stages": ["mid"], "mid_block_type": None}, "the network has no middle block"),
        ({"center_input_sample": True}, "center_input_sample is True: leave it out"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier': give positional"),
        ({"down_block_types": ["SkipDownBlock2D"] * 2, "up_block_types": ["SkipUpBlock2D"] * 2}, "skip images"),
    ],
    ids=str,
)
def test_what_cannot_have_maps_names_the_option(overrides, message):
    with pytest.raises(ValueError, match=f"`overrides`: ClassMapUNet cannot work with them: .*{message}") as refused:
        check_unet(unet_arguments("digits8", overrides, architecture="class_map_unet"), "class_map_unet")
    assert "\n" not in str(refused.value)


def test_missing_labels_are_refused():
    with pytest.raises(ValueError, match="class_labels is None"):
        tiny()(torch.zeros(1, 1, 8, 8), 3)


# A run

OPTIONS = ["--output_dir=unused", "--max_train_steps=1", "--model.architecture=class_map_unet"]
REFUSAL = "--model.architecture is 'class_map_unet': the model is unconditional"


def test_the_stages_can_be_given_on_the_command_line():
    config = parse_config(TrainConfig, [*OPTIONS, "--model.overrides.class_map_stages=[mid]"])
    assert config.network_arguments()["class_map_stages"] == ["mid"]


def test_a_run_without_classes_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        parse_config(TrainConfig, [*OPTIONS, "--data.class_conditional=false"])
    assert REFUSAL in capsys.readouterr().err
    from PIL import Image

    for number in range(2):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    config = parse_config(TrainConfig, [*OPTIONS, f"--data.source={tmp_path}", "--model.preset=digits8"])
    with pytest.raises(ValueError, match=REFUSAL):
        load_data(config, NO_OBJECTS, init_distributed())
