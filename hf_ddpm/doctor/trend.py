"""Numbers of a log over the steps of a run: `Curve.of(log, "loss").mean(900, 1000)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Curve:
    """A number of metrics.jsonl by step."""

    points: Sequence[tuple[int, float]]
    """Step and value, oldest first."""

    @classmethod
    def of(cls, log: Sequence[dict[str, Any]], name: str) -> Curve:
        """The lines that have a number of this name."""
        return cls([(int(line["step"]), float(line[name])) for line in log if name in line])

    def __len__(self) -> int:
        return len(self.points)

    @property
    def last_step(self) -> int:
        """Step of the last value, of which there must be one."""
        return self.points[-1][0]

    def between(self, low: float, high: float) -> list[float]:
        """The values of the steps above `low` and up to `high`."""
        return [value for step, value in self.points if low < step <= high]

    def mean(self, low: float, high: float) -> float | None:
        """Mean of the values of the steps above `low` and up to `high`; None = there are none."""
        values = self.between(low, high)
        return sum(values) / len(values) if values else None

    def before(self, fraction: float, width: float = 0.1) -> float | None:
        """Mean over the last tenth (`width`) of the first part (`fraction`) of the run; None = no value lies there."""
        end = fraction * self.last_step
        return self.mean(end * (1 - width), end)

    def binned(self, count: int) -> list[float]:
        """Means over `count` equal parts of the run, without those that have no value."""
        width = self.last_step / count
        means = (self.mean(width * part, width * (part + 1)) for part in range(count))
        return [mean for mean in means if mean is not None]


def ema_share(decay: float, inv_gamma: float, power: float, *, first: int, last: int) -> float:
    """How much of the averaged weights after step `last` is from steps up to `first`: a fraction.

    The decay of each step is that of `EMAModel.get_decay` in diffusers, with the warm-up that
    `hf_ddpm.training.optim.build_ema` asks for; it is 0 in the first step.
    """
    share, block = 1.0, max(1, (last - first) // 10_000)  # in long runs neighbouring steps have nearly the same decay
    for step in range(max(first, 1), last, block):
        size = min(block, last - step)
        share *= min(1 - (1 + (step + size // 2) / inv_gamma) ** -power, decay) ** size
    return share
