"""Numbers of a log over the steps of a run."""

import pytest
import torch
from diffusers.training_utils import EMAModel

from hf_ddpm.config import EMAConfig
from hf_ddpm.doctor.log_rules import doublings_until_settled
from hf_ddpm.doctor.trend import Curve, ema_share
from hf_ddpm.training.optim import build_ema


def test_means_over_parts_of_a_run():
    curve = Curve.of([{"step": step, "loss": float(step)} for step in range(10, 101, 10)] + [{"step": 100}], "loss")
    assert (len(curve), curve.last_step) == (10, 100)
    assert curve.mean(10, 30) == 25 and curve.mean(100, 200) is None
    assert (curve.before(0.5), curve.before(1.0)) == (50, 100)
    assert curve.binned(2) == [30, 80]


@pytest.mark.parametrize("config", [EMAConfig(), EMAConfig(decay=0.9999, power=2.0), EMAConfig(decay=0.9, inv_gamma=5.0)])
def test_the_share_of_old_weights_is_that_of_the_average_itself(config):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    ema: EMAModel = build_ema([weight], config)
    for step in range(1, 41):
        weight.data.fill_(1.0 if step <= 10 else 0.0)
        ema.step([weight])
    share = ema_share(config.decay, config.inv_gamma, config.power, first=10, last=40)
    assert share == pytest.approx(ema.shadow_params[0].item(), rel=1e-5)


def test_the_share_of_a_long_run_is_found_in_a_moment():
    assert ema_share(1 - 1e-15, 1.0, 9.0, first=10**17, last=10**18) == pytest.approx(0, abs=1e-9)
    by_step = ema_share(0.9999, 1.0, 0.75, first=1000, last=10_999)
    assert ema_share(0.9999, 1.0, 0.75, first=1000, last=21_000) < by_step < 0.01


def test_gains_that_shrink_fast_need_few_doublings():
    assert doublings_until_settled(0.24, 0.48) == 1
    assert doublings_until_settled(0.24, 0.27) == 6
    assert doublings_until_settled(0.24, None) == doublings_until_settled(0.24, 0.32) == 3
    assert doublings_until_settled(0.24, -0.1) == 3
