"""How differences are amplified before they are shown."""

import pytest
import torch

from hf_ddpm.figures.posterior import amplified


@pytest.mark.parametrize(
    ("largest", "factor"), [(1.0, 1), (0.7, 1), (0.5, 2), (0.03, 20), (0.0099, 100), (3.0, 0.2), (0.0, 1)]
)
def test_differences_are_amplified_to_fill_the_scale(largest, factor):
    difference = largest * torch.linspace(-1, 1, 1000).view(1, 25, 40)
    shown, chosen = amplified(difference, None)
    assert chosen == pytest.approx(factor)
    torch.testing.assert_close(shown, factor * difference)
    assert largest == 0 or 0.35 < shown.abs().quantile(0.99) <= 1


def test_a_factor_that_is_given_is_kept():
    assert amplified(torch.ones(1, 2, 2), 7.0)[1] == 7.0
