"""The two networks of a DCGAN: the paper's layers, the labels, and each option on its own."""

import pytest
import torch
from torch import nn

from hf_ddpm.dcgan_pipeline import STAGES, DCGANGenerator
from hf_ddpm.models.dcgan import DCGAN, DCGANDiscriminator

TINY = {"sample_size": 8, "channels": 1, "num_classes": None, "generator_width": 4, "discriminator_width": 4}


def channels_of(network: nn.Module, kind: type) -> list[tuple[int, int]]:
    return [(layer.in_channels, layer.out_channels) for layer in network.modules() if isinstance(layer, kind)]


def test_at_64_pixels_the_networks_are_those_of_the_paper():
    with torch.device("meta"):
        network = DCGAN(sample_size=64, channels=3, num_classes=None, latent_dim=100, generator_width=128)
        wide = DCGANGenerator(64, 3, latent_dim=100, width=128, wide_early=True)
    widths = [100, 1024, 512, 256, 128, 3]
    assert channels_of(network.generator, nn.ConvTranspose2d) == list(zip(widths, widths[1:], strict=False))
    assert channels_of(network.discriminator, nn.Conv2d) == [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    assert channels_of(wide, nn.ConvTranspose2d) == [(100, 1024), (1024, 1024), (1024, 512), (512, 256), (256, 3)]
    assert len([layer for layer in network.discriminator.modules() if isinstance(layer, nn.BatchNorm2d)]) == 3


@pytest.mark.parametrize("sample_size", STAGES)
def test_the_discriminator_gives_one_score_an_image(sample_size):
    network = DCGANDiscriminator(sample_size=sample_size, channels=3, width=2, num_classes=None, label_channels=1)
    assert network(torch.randn(2, 3, sample_size, sample_size)).shape == (2,)


def test_every_pixel_counts():
    network = DCGAN(**TINY).discriminator.eval()
    images = torch.randn(1, 1, 8, 8, requires_grad=True)
    network(images).sum().backward()
    assert (images.grad != 0).all()


def test_both_networks_look_at_the_label():
    network = DCGAN(**{**TINY, "num_classes": 3}, label_channels=5).eval()
    labels, latents, images = torch.tensor([0, 1]), torch.randn(1, 128).expand(2, -1), torch.randn(1, 1, 8, 8)
    drawn = network.generator(latents, labels)
    assert not torch.allclose(drawn[0], drawn[1])
    scores = network.discriminator(images.expand(2, -1, -1, -1), labels)
    assert not torch.allclose(scores[0], scores[1])
    assert channels_of(network.generator, nn.ConvTranspose2d)[0][0] == 128 + 5
    assert channels_of(network.discriminator, nn.Conv2d)[0][0] == 1 + 5


def test_a_label_that_is_missing_or_too_large_is_an_error():
    network = DCGAN(**{**TINY, "num_classes": 3})
    with pytest.raises(IndexError):
        network.generator(torch.randn(2, 128), torch.tensor([0, 3]))
    with pytest.raises(TypeError):
        network.generator(torch.randn(2, 128))


def test_fresh_weights_are_those_of_the_paper():
    torch.manual_seed(0)
    network = DCGAN(sample_size=16, channels=3, num_classes=None)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert layer.bias is None
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.mean().item() == pytest.approx(1, abs=0.02) and layer.weight.std() > 0


def test_wide_early_alone_changes_the_generator_alone():
    plain, wide = (DCGAN(**TINY, wide_early=wide) for wide in (False, True))
    sizes = [
        [sum(weights.numel() for weights in network.parameters()) for network in (both.generator, both.discriminator)]
        for both in (plain, wide)
    ]
    assert sizes[0][0] < sizes[1][0] and sizes[0][1] == sizes[1][1]
