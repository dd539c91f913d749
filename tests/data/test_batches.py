"""The order of the images, and the two functions that a batch goes through."""

import datasets
import pytest
import torch

from hf_ddpm.data.batches import IndexStream, epoch_permutation, flip_horizontally, to_model_range
from hf_ddpm.data.table import ImageTable


def make_table(count: int, *, labelled: bool = True) -> ImageTable:
    """Images of 1 x 1 whose pixel is their position, and whose label is twice their position."""
    return ImageTable(
        pixels=datasets.Dataset.from_dict({"pixels": [bytes([row]) for row in range(count)]}),
        channels=1,
        image_size=(1, 1),
        class_names=[str(row) for row in range(2 * count)] if labelled else None,
        class_labels=2 * torch.arange(count) if labelled else None,
    )


def test_epoch_permutation_is_a_permutation_and_pure():
    first = epoch_permutation(50, seed=3, epoch=2)
    torch.manual_seed(1)
    assert first.dtype == torch.int64
    assert torch.equal(first.sort().values, torch.arange(50))
    assert torch.equal(first, epoch_permutation(50, seed=3, epoch=2))


def test_epoch_permutation_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    epoch_permutation(50, seed=3, epoch=2)
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_and_epochs_do_not_collide():
    pairs = [(seed, epoch) for seed in (0, 1, 2, 2**32, 2**32 + 1, 2**63) for epoch in (0, 1, 2, 1000)]
    orders = {tuple(epoch_permutation(50, seed, epoch).tolist()) for seed, epoch in pairs}
    assert len(orders) == len(pairs)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed is -1: give"):
        epoch_permutation(50, seed=-1, epoch=0)


def test_stream_is_the_concatenation_of_the_epochs():
    expected = torch.cat([epoch_permutation(7, seed=5, epoch=epoch) for epoch in range(6)])
    stream = IndexStream(7, seed=5)
    assert torch.equal(stream.indices(0, 42), expected)
    for position in range(30):
        for count in (0, 1, 6, 7, 8):
            indices = stream.indices(position, count)
            assert indices.dtype == torch.int64
            assert torch.equal(indices, expected[position : position + count])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 20])
def test_stream_does_not_depend_on_the_batch_size(count):
    stream = IndexStream(9, seed=0)
    batches = [stream.indices(position, count) for position in range(0, 60, count)]
    assert torch.equal(torch.cat(batches), IndexStream(9, seed=0).indices(0, 60))


def test_stream_cannot_be_spoilt_through_what_it_returns():
    stream = IndexStream(9, seed=0)
    expected = stream.indices(0, 5).clone()
    stream.indices(0, 5).zero_()
    assert torch.equal(stream.indices(0, 5), expected)


@pytest.mark.parametrize(("num_processes", "batch_size", "micro_steps"), [(1, 12, 1), (1, 4, 3), (2, 3, 2), (3, 2, 2)])
def test_processes_and_micro_steps_divide_the_stream(num_processes, batch_size, micro_steps):
    table, total = make_table(7), 12
    expected = IndexStream(7, seed=5).indices(0, 5 * total)
    for images_seen in (0, 24, 12, 48):
        pixels, labels = [], []
        for micro_step in range(micro_steps):
            for index in range(num_processes):
                options = {"num_processes": num_processes, "process_index": index}
                batch = table.reader(seed=5, batch_size=batch_size, **options).read(images_seen, micro_step)
                assert batch.images.shape == (batch_size, 1, 1, 1) and batch.images.dtype == torch.uint8
                pixels += batch.images.flatten().tolist()
                labels += batch.class_labels.tolist()
        assert pixels == expected[images_seen : images_seen + total].tolist()
        assert labels == [2 * pixel for pixel in pixels]


def test_reader_of_a_table_without_labels():
    assert make_table(3, labelled=False).reader(seed=0, batch_size=2).read(0, 0).class_labels is None


def test_stream_without_images_is_refused():
    with pytest.raises(ValueError, match="num_images is 0"):
        IndexStream(0, seed=0)


def test_model_range_is_exact_at_its_ends_and_invertible():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = to_model_range(pixels)
    assert images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert torch.equal(((images + 1) * 127.5).round().to(torch.uint8), pixels)


def test_flip_mirrors_where_the_mask_says():
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([True, False, True, False])
    flipped = flip_horizontally(images, mask)
    assert flipped.dtype == images.dtype
    assert torch.equal(flipped[1], images[1]) and torch.equal(flipped[3], images[3])
    assert torch.equal(flipped[0, :, :, 0], images[0, :, :, -1])
    assert torch.equal(flip_horizontally(flipped, mask), images)
    assert torch.equal(flip_horizontally(images.float(), mask), flipped.float())
