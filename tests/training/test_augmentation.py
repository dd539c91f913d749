"""Flips and crops depend on (seed, step, position) alone, and none changes what another one does."""

import pytest
import torch

from hf_ddpm.data.batches import flip_horizontally, flip_vertically, shift_images
from hf_ddpm.data.options import DataConfig
from hf_ddpm.training.augmentation import augment
from hf_ddpm.training.options import GANConfig, JudgeConfig, TrainConfig
from hf_ddpm.training.step_randomness import BLOCK

COUNT = 5 * BLOCK
IMAGES = torch.arange(COUNT * 2 * 6 * 5, dtype=torch.float32).reshape(COUNT, 2, 6, 5)
FLIP = torch.arange(COUNT) % 3 == 0


def augmented(images=IMAGES, flip=FLIP, *, seed: int = 0, step: int = 0, positions=range(COUNT), **options) -> torch.Tensor:
    return augment(images, DataConfig(**options), flip, seed=seed, step=step, positions=positions)


def test_nothing_happens_by_default_and_the_given_images_are_mirrored():
    assert augmented() is IMAGES
    assert torch.equal(augmented(horizontal_flip=True), flip_horizontally(IMAGES, FLIP))


def vertical_flips(images: torch.Tensor) -> torch.Tensor:
    """Which images were turned upside down; the others are as before."""
    flipped = torch.tensor([bool(torch.equal(a, b.flip(-2))) for a, b in zip(images, IMAGES, strict=True)])
    assert torch.equal(images, flip_vertically(IMAGES, flipped))
    return flipped


def test_half_of_the_images_are_turned_upside_down_others_in_each_step():
    flips = torch.stack([vertical_flips(augmented(vertical_flip=True, step=step)) for step in range(20)])
    assert abs(flips.double().mean() - 0.5) < 0.08
    assert len(flips.unique(dim=0)) == 20
    assert not torch.equal(flips[0], vertical_flips(augmented(vertical_flip=True, seed=1)))


def shifts(images: torch.Tensor, most: int) -> list[tuple[int, int]]:
    """By how many rows and columns each image was moved."""
    moves = [(rows, columns) for rows in range(-most, most + 1) for columns in range(-most, most + 1)]
    moved = [shift_images(IMAGES, torch.tensor([move] * COUNT)) for move in moves]
    return [next(move for move, m in zip(moves, moved, strict=True) if torch.equal(m[i], images[i])) for i in range(COUNT)]


def test_crops_are_of_all_places():
    found = [move for step in range(20) for move in shifts(augmented(random_crop=1, step=step), 1)]
    counts = {move: found.count(move) for move in found}
    assert len(counts) == 9 and min(counts.values()) > 50, "800 / 9 each"


def test_no_option_changes_what_another_one_draws():
    both = augmented(random_crop=2, vertical_flip=True)
    flips = vertical_flips(augmented(vertical_flip=True))
    assert torch.equal(both, flip_vertically(augmented(random_crop=2), flips))
    assert torch.equal(augmented(random_crop=2, horizontal_flip=True), flip_horizontally(augmented(random_crop=2), FLIP))


@pytest.mark.parametrize("count", [1, 3, BLOCK, BLOCK + 4])
def test_parts_are_those_of_the_total_batch(count):
    """However the batch is split among processes and micro-steps."""
    options = {"random_crop": 2, "vertical_flip": True, "horizontal_flip": True}
    parts = [range(start, min(start + count, COUNT)) for start in range(0, COUNT, count)]
    split = [augmented(IMAGES[list(part)], FLIP[list(part)], positions=part, **options) for part in parts]
    assert torch.equal(torch.cat(split), augmented(**options))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_pixels_of_all_types(dtype):
    images = (IMAGES % 251).to(dtype)
    changed = augmented(images, random_crop=1, vertical_flip=True, horizontal_flip=True)
    expected = augmented((IMAGES % 251), random_crop=1, vertical_flip=True, horizontal_flip=True)
    assert changed.dtype == dtype and torch.equal(changed.float(), expected)


@pytest.mark.parametrize(
    ("config_class", "options", "words"),
    [
        (TrainConfig, ["--data.random_crop=8"], "--data.random_crop is 8: give less than the image size, 8"),
        (TrainConfig, ["--data.random_crop=0"], "--data.random_crop is 0: give a number of pixels above 0"),
        (GANConfig, ["--data.random_crop=9", "--data.image_size=8"], "--data.random_crop is 9: give less than"),
        (JudgeConfig, ["--data.random_crop=1", "--data.image_size=8"], "--data.max_shift"),
    ],
)
def test_mistakes(refusal_of, config_class, options, words):
    assert words in refusal_of(config_class, *options, "--max_train_steps=1", "--output_dir=run")
