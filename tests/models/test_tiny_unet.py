"""TinyUNet: timestep and class enter at the input only; the presets give its size."""

import pytest
import torch
from torch import nn

from hf_ddpm.models.tiny_unet import TinyUNet
from hf_ddpm.models.unet import build_unet, check_unet, unet_arguments

# Parameters of the unconditional network, in millions.
SIZES = {"digits8": 0.57, "mnist32": 2.34, "cars128": 4.27}


def tiny(**options) -> TinyUNet:
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
    return TinyUNet(**sizes | options).eval()


def test_the_embeddings_enter_at_the_input_only():
    unet = tiny(num_class_embeds=3)
    entered = []
    unet.down_blocks[0].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    sample = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        output = unet(sample, 10, torch.tensor([1])).sample
        other = unet(sample, 900, torch.tensor([2])).sample
        shift = entered[1] - entered[0]
        torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift))  # one number a channel
        # Given the first convolution of another call, the rest of the network continues as in that call.
        unet.conv_in.register_forward_hook(lambda module, inputs, result: result + shift)
        moved = unet(sample, 10, torch.tensor([1])).sample
    assert not torch.equal(output, other)
    torch.testing.assert_close(moved, other)


def test_no_block_has_a_projection_of_the_timestep_or_attention():
    unet = tiny(block_out_channels=(8, 8, 16), layers_per_block=2)
    linear = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear)]
    assert linear == ["time_embedding.linear_1", "time_embedding.linear_2"]


def test_skip_connections_carry_the_detail():
    unet = tiny()
    image = torch.zeros(1, 1, 8, 8)
    reached = image.clone().requires_grad_()
    unet.mid_block.register_forward_hook(lambda module, inputs, output: output.detach())
    unet(reached, 0).sample.sum().backward()
    assert (reached.grad != 0).any()


@pytest.mark.parametrize(("preset", "millions"), SIZES.items())
def test_presets_give_sizes_and_widths(preset, millions):
    arguments = unet_arguments(preset, architecture="tiny_unet")
    assert "down_block_types" not in arguments and "attention_head_dim" not in arguments
    check_unet(arguments, "tiny_unet")
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_unet(arguments, architecture="tiny_unet").parameters())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize(("layers", "widths"), [(1, (8,)), (2, (8, 16)), (1, (8, 12, 8, 4))])
def test_levels_and_layers(layers, widths):
    unet = tiny(layers_per_block=layers, block_out_channels=widths)
    assert unet(torch.zeros(2, 1, 16, 16), torch.tensor([0, 1])).sample.shape == (2, 1, 16, 16)
