"""Facts of a comparison that was never measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hf_ddpm.experiments.facts import ComparisonFacts, TrainingFacts
from hf_ddpm.experiments.tables import SweepRow
from hf_ddpm.results import ClassMetricValue, MetricValue


def row_of(recipe: str, seed: int, scale: float | None, distance: float) -> SweepRow:
    value = MetricValue(mean=distance, stderr=0.1, n=100, values=[])
    of_class = ClassMetricValue(mean=2 * distance, stderr=0.1, n=50, values=[], floor=0.7)
    return SweepRow(
        cell=f"{recipe}_{seed}_{scale}", recipe=recipe, train_seed=seed, scheduler="ddim" if scale else None,
        num_inference_steps=20 if scale else None, guidance_scale=scale, num_images=100, network_calls=20,
        num_seeds=3, floor_num_images=90, metrics={"fd_judge": value, "recall": value}, floor={"fd_judge": 0.5},
        ceiling={"fd_judge": 300.0}, per_class={"cat": {"fd_judge": of_class}},
    )  # fmt: skip


def training_of(recipe: str, seed: int) -> TrainingFacts:
    return TrainingFacts(
        name=f"{recipe}-seed-{seed}", recipe=recipe, train_seed=seed,
        kind="GAN" if recipe == "gan" else "diffusion model", parameters=1_234_567, steps=1200 + 100 * seed,
        images_seen=76800, train_images=1437, images_per_second=300.0, seconds_per_epoch=4.79, training_seconds=192.4,
        final_losses={"d_loss": 1.2, "g_loss": 0.9} if recipe == "gan" else {"loss": 0.25},
        samples=f"comparison/{recipe}-seed-{seed}.png", processor="a CPU", gpu=None, num_processes=1, num_threads=1,
    )  # fmt: skip


@pytest.fixture
def facts_of() -> Callable[..., ComparisonFacts]:
    """A comparison of a diffusion model at two scales and of a GAN, each trained with some seeds."""

    def build(seeds: tuple[int, ...] = (0,), **changed) -> ComparisonFacts:
        cells = [row_of("unet", seed, scale, scale + seed) for seed in seeds for scale in (1.0, 1.5)]
        cells += [row_of("gan", seed, None, 9.0) for seed in seeds]
        facts = {
            "recipes": ["unet", "gan"], "train_seeds": list(seeds), "train_minutes": None, "distance": "fd_judge",
            "features": "judge", "data_source": "digits", "data_labels": None, "reference_split": "train",
            "reference_images": 1437, "num_seeds": 3, "cells": cells, "notes": [],
            "runs": [training_of(recipe, seed) for recipe in ("unet", "gan") for seed in seeds],
            "losses": "comparison/losses.png", "figures": ["guidance.png"], "command": "python sweep.py",
        }  # fmt: skip
        return ComparisonFacts(**(facts | changed))

    return build
