"""ConditionUNet: vectors of labels and of numbers, the null condition, and configs that cannot work."""

import pytest
import torch

from hf_ddpm.models.condition_unet import ConditionUNet
from hf_ddpm.models.unet import build_unet, unet_arguments
from hf_ddpm.saved_model import check_saved_network

SHAPE = {"block_out_channels": [8, 16], "norm_num_groups": 4}


def tiny(entries: int = 3, condition_range=None, **overrides) -> ConditionUNet:
    torch.manual_seed(0)
    arguments = unet_arguments("digits8", SHAPE | overrides, num_class_embeds=entries, architecture="condition_unet")
    return build_unet(arguments | {"condition_range": condition_range}, architecture="condition_unet").eval()


def output(network: ConditionUNet, labels) -> torch.Tensor:
    images = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(len(labels), 1, 1, 1)
    with torch.no_grad():
        return network(images.to(network.dtype), 500, class_labels=torch.tensor(labels)).sample


def test_each_set_of_labels_has_an_embedding_of_its_own_which_is_the_sum_of_its_labels():
    network, sets = tiny(), [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]
    embeddings = network.class_embedding(torch.tensor(sets, dtype=torch.float32))
    assert torch.equal(embeddings[0], torch.zeros_like(embeddings[0]))  # the empty set, which is not the null condition
    torch.testing.assert_close(embeddings[3], embeddings[1] + embeddings[2])
    assert len({image.numpy().tobytes() for image in output(network, [[float(bit) for bit in bits] for bits in sets])}) == 5


@pytest.mark.parametrize("condition_range", [None, [0, 5]])
def test_an_integer_is_the_vector_with_a_one_at_its_place(condition_range):
    network = tiny(2, condition_range)
    assert torch.equal(output(network, [0, 1]), output(network, [[1.0, 0.0], [0.0, 1.0]]))


def test_numbers_are_told_apart_and_neighbours_are_alike():
    network = tiny(2, [-10, 30])
    images = output(network, [[-10.0, 0.0], [-9.9, 0.0], [10.0, 0.0], [30.0, 0.0], [0.0, 1.0]])
    distance = (images[:, None] - images).square().mean(dim=(2, 3, 4)).sqrt()
    assert distance[0, 1] < 0.1 * distance[0, 2:].min()
    assert (distance[~torch.eye(5, dtype=torch.bool)] > 0).all()


def test_the_range_is_the_scale():
    torch.testing.assert_close(output(tiny(2, [0, 1]), [[0.25, 0.0]]), output(tiny(2, [-100, 300]), [[0.0, 0.0]]))


def test_the_null_condition_of_a_number_does_not_depend_on_the_number():
    network = tiny(2, [0, 1])
    assert torch.equal(output(network, [[0.2, 1.0]]), output(network, [[0.7, 1.0]]))


@pytest.mark.parametrize("condition_range", [None, [0, 5]])
def test_it_works_in_bfloat16(condition_range):
    network = torch.nn.Module.to(tiny(2, condition_range), torch.bfloat16)
    assert output(network, [[1.0, 0.0], [0.0, 1.0]]).isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"condition_range": [1, 1]}, "condition_range is [1, 1]: give the lowest and the highest number"),
        ({"condition_range": [0, float("inf")]}, "condition_range"),
        ({"condition_range": ["a", "b"]}, "condition_range"),
        ({"condition_range": [0, 1, 2]}, "condition_range"),
        ({"entries": 3, "condition_range": [0, 1]}, "num_class_embeds is 3: a number is one entry"),
        ({"entries": None}, "num_class_embeds is None"),
    ],
)
def test_a_config_that_cannot_work_is_refused(change, words):
    with pytest.raises(ValueError) as raised:
        tiny(**{"entries": 2} | change)
    assert words in str(raised.value)


@pytest.mark.parametrize("condition_range", [None, [0.5, 1e6]])
def test_saved_and_checked(condition_range, tmp_path):
    network = tiny(2, condition_range)
    network.save_pretrained(tmp_path)
    assert check_saved_network(tmp_path, "", ConditionUNet).config.condition_range == condition_range
    again = ConditionUNet.from_pretrained(tmp_path)
    assert torch.equal(output(again, [[1.0, 0.0]]), output(network, [[1.0, 0.0]]))
