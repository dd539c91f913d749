"""Learning rates step by step, the optimizers, and the moving average against its recurrence."""

import math

import pytest
import torch

from hf_ddpm.config import EMAConfig, OptimConfig
from hf_ddpm.training.optim import build_ema, build_lr_scheduler, build_optimizer

PEAK = 0.1


def rates(total_steps: int, steps_per_unit: float = 1, **options) -> list[float]:
    """The rate of each optimizer step, and the one after the last."""
    config = OptimConfig(learning_rate=PEAK, **options)
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(2))], config)
    scheduler = build_lr_scheduler(optimizer, config, total_steps=total_steps, steps_per_unit=steps_per_unit)
    used = []
    for _ in range(total_steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*used, *scheduler.get_last_lr()]


def test_constant():
    assert rates(5, lr_scheduler="constant") == [PEAK] * 6


def test_linear_ends_at_0():
    assert rates(4, lr_scheduler="linear") == pytest.approx([PEAK, 0.75 * PEAK, 0.5 * PEAK, 0.25 * PEAK, 0])


def test_cosine_ends_at_0():
    expected = [PEAK * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]
    assert rates(10, lr_scheduler="cosine") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"lr_scheduler": "constant"},
        {"lr_scheduler": "linear"},
        {"lr_scheduler": "cosine"},
        {"lr_scheduler": "multistep", "lr_milestones": [10], "lr_gamma": 0.1},
    ],
)
def test_warm_up_grows_evenly_to_the_peak(options):
    used = rates(12, lr_warmup_steps=4, **options)
    grown = torch.tensor(used[:4]).diff()
    assert torch.allclose(grown, torch.tensor(PEAK / 4)) and max(used) == used[4] == pytest.approx(PEAK)


@pytest.mark.parametrize("lr_scheduler", ["linear", "cosine"])
def test_decay_after_warm_up_still_ends_at_0(lr_scheduler):
    used = rates(12, lr_warmup_steps=4, lr_scheduler=lr_scheduler)
    assert used[-1] == pytest.approx(0, abs=1e-12) and all(a > b for a, b in zip(used[4:], used[5:], strict=False))


def test_multistep_in_steps_is_that_of_torch():
    used = rates(10, lr_scheduler="multistep", lr_milestones=[3, 7], lr_gamma=0.1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=PEAK)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7], gamma=0.1)
    for step in range(11):
        assert used[step] == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_multistep_in_epochs_waits_until_the_epoch_is_over():
    used = rates(10, steps_per_unit=2.5, lr_scheduler="multistep", lr_milestones=[1, 2], lr_gamma=0.5)
    assert used == pytest.approx([PEAK] * 3 + [PEAK / 2] * 2 + [PEAK / 4] * 6)


# Optimizers


@pytest.mark.parametrize(("name", "reference"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_optimizers_are_fused_and_step_like_those_of_torch(name, reference):
    config = OptimConfig(optimizer=name, learning_rate=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    optimizers = [
        build_optimizer([ours], config),
        reference([theirs], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1, foreach=False),
    ]
    assert type(optimizers[0]) is reference and optimizers[0].param_groups[0]["fused"] is True
    for step in range(5):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.cos(parameter.detach() * step)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_an_optimizer_takes_a_generator_of_parameters():
    module = torch.nn.Linear(2, 2)
    assert len(build_optimizer(module.parameters(), OptimConfig()).param_groups[0]["params"]) == 2


# Moving average


def test_no_average_where_it_is_off():
    assert build_ema([torch.nn.Parameter(torch.zeros(1))], EMAConfig(decay=None)) is None


@pytest.mark.parametrize("config", [EMAConfig(), EMAConfig(decay=0.5), EMAConfig(inv_gamma=3.0, power=1.0)])
def test_the_average_follows_its_recurrence(config):
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ema, expected = build_ema([parameter], config), torch.zeros(3, dtype=torch.float64)
    for step in range(20):
        with torch.no_grad():
            parameter += torch.tensor([1.0, -2.0, step])
        ema.step([parameter])
        decay = min(config.decay, 1 - (1 + step / config.inv_gamma) ** -config.power)
        expected = decay * expected + (1 - decay) * parameter.detach()
        torch.testing.assert_close(ema.shadow_params[0], expected)


def test_an_average_with_decay_0_is_the_parameter_itself():
    parameter = torch.nn.Parameter(torch.zeros(3))
    ema = build_ema([parameter], EMAConfig(decay=0.0))
    for _ in range(3):
        with torch.no_grad():
            parameter += 1
        ema.step([parameter])
        assert torch.equal(ema.shadow_params[0], parameter)
