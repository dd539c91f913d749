"""Rules about the course of the training. README.md has the measured example of each threshold."""

from __future__ import annotations

import math

from hf_ddpm.doctor.facts import Facts
from hf_ddpm.doctor.finding import Answer, Finding, Gap
from hf_ddpm.markdown import number
from hf_ddpm.text import one_line

MIN_STEPS = 100
"""Steps of a run from which the average of its weights is judged: at first it lags in any case."""
MIN_LINES = 10
"""Lines of a log from which its trend is read: each tenth of the run then has one."""
STUCK = 0.5
"""Loss as a fraction of that of a network that always answers 0, from which it has not learned."""
LOSS_OF_ZERO = {"l2": 1.0, "l1": math.sqrt(2 / math.pi), "huber": 0.4246, "smooth_l1": 0.4246}
"""Expected loss of the answer 0 to a target of N(0, 1)."""
PARTS = 20
"""Parts of a run whose means are compared, as single lines may be noisy."""
RISE, RECOVERED = 3.0, 1.5
"""Factors over the lowest loss before: a rise, and what is left of it at the end if the run has recovered."""
LOW_RATE, USUAL_RATE = 1e-5, 1e-3
FALLING = 0.2
"""Fraction by which the loss falls over the second half of a run that stopped too early."""
SETTLED = 0.12
"""The same, of a run that is long enough."""
MAX_DOUBLINGS = 4
"""Doublings of the length over which a trend is continued."""
GAP = 1.25
"""Held-out loss as a multiple of the training loss, from which a network knows its training images by heart."""
RISING = 1.1
"""The last held-out loss as a multiple of the lowest one."""


def diverged(facts: Facts) -> Answer:
    """A step that was not finite, and that the run has not passed since."""
    step = max(facts.diverged, default=None)
    if step is None or facts.step > step:
        return None
    record, rate = facts.diverged[step], facts.number("optim", "learning_rate")
    loss, norm = (one_line(record.get(name), 40) for name in ("loss", "grad_norm"))
    precision = facts.option("", "mixed_precision")
    lower = f" --optim.learning_rate {_lower(rate):g}"
    other = " --mixed_precision fp32" if precision in ("bf16", "fp16") else ""
    clip = " --optim.max_grad_norm 1" if facts.number("optim", "max_grad_norm") is None else ""
    return Finding(
        name="diverged",
        seen=f"step {step:,}: the loss was {loss} and the gradient norm {norm}, with a learning rate of {_rate(rate)}",
        meaning="the step was not applied, and the run ended; its weights before it may already have been spoiled",
        remedy=f"{facts.resume_command}{lower}{clip}{other}; or the same in a new --output_dir, if the loss rose before",
    )


def unfinished(facts: Facts) -> Answer:
    """A run that nobody continues, short of its length."""
    total = facts.total_steps
    if facts.is_running or total is None or facts.step >= total:
        return None
    return Finding(
        name="unfinished",
        seen=f"the run stopped after step {facts.step:,} of {total:,}",
        meaning="it was stopped or killed: the model is worse than the finished one will be",
        remedy=facts.resume_command,
    )


def learning_rate(facts: Facts) -> Answer:
    """A loss that stands still where it has learned nothing, or has not come down again after a rise."""
    losses = facts.losses
    if len(losses) < MIN_LINES:
        return too_few_lines(facts)
    end, half, rate = losses.before(1.0), losses.before(0.5), facts.number("optim", "learning_rate")
    assert end is not None, "the last line lies in the last tenth"
    rise, lowest = _largest_rise(losses.binned(PARTS))
    recovered = end <= RECOVERED * lowest
    is_stuck = _is_stuck(facts, end) and (rise >= RISE or not half or 1 - end / half < FALLING)
    if not is_stuck and (rise < RISE or recovered):
        return None
    if rise < RISE and rate is not None and rate < LOW_RATE:
        return Finding(
            name="learning rate too low",
            seen=f"the loss stays at {number(end)} with a learning rate of {_rate(rate)}",
            meaning="the weights hardly move: the network has learned nothing yet",
            remedy=f"train anew, in a new --output_dir, with --optim.learning_rate {USUAL_RATE:g}",
        )
    jumped = f"; it had risen to {rise:,.0f} x its lowest value before" if rise >= RISE else ""
    return Finding(
        name="learning rate too high",
        seen=f"the loss is {number(end)} at the end, with a learning rate of {_rate(rate)}{jumped}",
        meaning="the weights were thrown off course, and the network predicts little more than a constant",
        remedy=f"train anew, in a new --output_dir, with --optim.learning_rate {_lower(rate):g} --optim.lr_warmup_steps 100",
    )


def convergence(facts: Facts) -> Answer:
    """A loss that still falls fast at the end."""
    losses, total = facts.losses, facts.total_steps
    if total is None or facts.step < total:
        return Gap(name="convergence", reason="the run is not finished", remedy="examine it when it is")
    quarter, half, end = (losses.before(part) for part in (0.25, 0.5, 1.0))
    if not half or end is None or len(losses) < MIN_LINES:
        return None  # `learning_rate` has said that the log is too short
    gain = 1 - end / half
    if not gain >= FALLING:
        return None
    doublings = doublings_until_settled(gain, None if not quarter else 1 - half / quarter)
    factor = 2 ** min(doublings, MAX_DOUBLINGS)
    about = "about" if doublings <= MAX_DOUBLINGS else "more than"
    longer = f"--max_train_steps {total * factor}"
    if facts.number("", "num_train_epochs") is not None:
        longer = f"--num_train_epochs {int(facts.number('', 'num_train_epochs') or 1) * factor}"
    return Finding(
        name="not converged",
        seen=f"the loss fell from {number(half)} to {number(end)} over the second half of {total:,} steps, by {gain:.0%}",
        meaning="the model was still learning fast when the run ended: its samples are worse than they could be",
        remedy=f"by the trend {about} {factor} x as long: {facts.resume_command} {longer}",
    )


def doublings_until_settled(gain: float, gain_before: float | None) -> int:
    """How often the length has to be doubled until that gains less than `SETTLED`.

    The gains of successive doublings shrink by a constant factor, taken from the last two (None = unknown).
    """
    shrinks = 0.75 if not gain_before or gain_before <= 0 else min(max(gain / gain_before, 0.5), 0.9)
    return max(1, math.ceil(math.log(SETTLED / gain) / math.log(shrinks)))


def overfitting(facts: Facts) -> Answer:
    """A held-out loss that is above that of training, or grows."""
    if not facts.has_held_out_split:
        remedy = "name another split of the data with --data.test_split; --samples compares samples with training images"
        return Gap(name="overfitting by the loss", reason="no images are held out", remedy=remedy)
    tests, train = facts.test_losses, facts.losses
    if not len(tests):
        remedy = "--logging.sample_every_steps measures it every so many steps"
        return Gap(name="overfitting by the loss", reason="the log has no held-out loss yet", remedy=remedy)
    step, last = tests.points[-1]
    lowest_step, lowest = min(tests.points, key=lambda point: point[1])
    is_comparable = has_plain_loss(facts) and step >= MIN_STEPS
    here = train.mean(0.8 * step, step) if is_comparable else None
    ratio = None if here is None or here <= 0 else last / here
    is_rising = lowest_step < step and last >= RISING * lowest
    if not is_rising and (ratio is None or ratio < GAP):
        return None
    seen = (
        [] if ratio is None else [f"the held-out loss is {number(last)}, {ratio:.1f} x the training loss of {number(here)}"]
    )
    if is_rising:
        seen += [f"the held-out loss rose from {number(lowest)} at step {lowest_step:,} to {number(last)} at step {step:,}"]
    keep = "train on more images, or for fewer steps"
    kept = facts.folder.checkpoint(lowest_step)
    if is_rising:
        keep = f"the checkpoint {kept} is better" if kept.is_dir() else f"train for about {lowest_step:,} steps"
    return Finding(
        name="overfitting",
        seen="; ".join(seen),
        meaning="the network learns its training images by heart: samples come close to copies of them",
        remedy=f"{keep}; more images, --data.horizontal_flip, --model.overrides.dropout 0.1 or a smaller network help too",
    )


def has_plain_loss(facts: Facts) -> bool:
    """Whether the logged training loss is the unweighted one, as the held-out loss is."""
    is_unweighted = facts.option("objective", "loss_weighting") in (None, "simple")
    return is_unweighted and facts.option("schedule", "variance_type") != "learned_range"


def too_few_lines(facts: Facts) -> Gap:
    """The answer of rules that need more of the log."""
    lines = len(facts.losses)
    reason = f"the log has {lines} {'line' if lines == 1 else 'lines'} of training, and {MIN_LINES} are needed"
    every = max(1, (facts.total_steps or facts.step) // (2 * MIN_LINES))
    return Gap(name="learning rate and convergence", reason=reason, remedy=f"--logging.every_steps {every}")


def _is_stuck(facts: Facts, end: float) -> bool:
    """Whether a loss is near that of a constant answer; False where that is unknown."""
    scale = LOSS_OF_ZERO.get(facts.option("objective", "loss") or "l2")
    known = has_plain_loss(facts) and facts.option("objective", "prediction_type") in ("epsilon", "v_prediction")
    return known and scale is not None and end > STUCK * scale


def _largest_rise(losses: list[float]) -> tuple[float, float]:
    """The largest loss as a multiple of the lowest one before it, and that lowest one."""
    largest, found, lowest = 1.0, losses[0], losses[0]
    for loss in losses:
        lowest = min(lowest, loss)
        if lowest > 0 and loss / lowest > largest:
            largest, found = loss / lowest, lowest
    return largest, found


def _lower(rate: float | None) -> float:
    """A learning rate to try after one that was too high (None = unknown)."""
    return USUAL_RATE if rate is None else min(rate / 10, USUAL_RATE)


def _rate(rate: float | None) -> str:
    return "an unknown size" if rate is None else f"{rate:g}"
