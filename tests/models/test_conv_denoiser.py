"""ConvDenoiser: everything passes the lowest resolution; the presets give its size."""

import pytest
import torch
from torch import nn

from hf_ddpm.models.conv_denoiser import ConvDenoiser
from hf_ddpm.models.unet import build_unet, check_unet, unet_arguments

# Parameters of the unconditional network, in millions.
SIZES = {"digits8": 0.15, "unet-2xud-half": 0.56, "unet-2xud": 2.22, "unet-3xblocks": 5.34}


def tiny(**options) -> ConvDenoiser:
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
    return ConvDenoiser(**sizes | options).eval()


@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 12, 16)])
def test_images_are_halved_and_doubled_again(widths):
    network = tiny(block_out_channels=widths)
    sizes, kinds = [], []
    for layer in network.layers:
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
        kinds.append(type(layer.conv))
    assert network(torch.zeros(2, 1, 16, 16), torch.tensor([0, 1])).sample.shape == (2, 1, 16, 16)
    down = [16 >> level for level in range(len(widths))]
    assert sizes == [*down, *down[::-1]]
    count = len(widths)
    assert kinds == [nn.Conv2d] * (count + 1) + [nn.ConvTranspose2d] * (count - 1)


def test_everything_passes_through_the_middle():
    network = tiny()
    middle = len(network.layers) // 2
    network.layers[middle].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    with torch.no_grad():
        outputs = [network(torch.randn(1, 1, 8, 8), 7).sample for _ in range(2)]
    assert torch.equal(*outputs)


def test_every_layer_receives_the_timestep():
    network = tiny()
    seen: list[torch.Tensor] = []
    for layer in network.layers:
        layer.embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        network(torch.zeros(2, 1, 8, 8), torch.tensor([0, 999]))
    assert len(seen) == len(network.layers)
    assert all((shift[0] != shift[1]).any() for shift in seen)


@pytest.mark.parametrize(("preset", "millions"), SIZES.items())
def test_presets_give_sizes_and_widths(preset, millions):
    arguments = unet_arguments(preset, architecture="conv_denoiser")
    check_unet(arguments, "conv_denoiser")
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_unet(arguments, architecture="conv_denoiser").parameters())
    assert round(count / 1e6, 2) == millions
