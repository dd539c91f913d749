"""Rules about data, options and results. README.md has the measured example of each threshold."""

from __future__ import annotations

from hf_ddpm.doctor.facts import Facts
from hf_ddpm.doctor.finding import Answer, Finding, Gap
from hf_ddpm.doctor.log_rules import MIN_STEPS
from hf_ddpm.doctor.trend import ema_share
from hf_ddpm.markdown import number
from hf_ddpm.text import one_line

FEW_IMAGES = 500
"""Training images that a diffusion model of a few hundred thousand parameters knows by heart within minutes."""
OLD_PART, LAGGING = 0.1, 0.05
"""First part of the run, and how much of the averaged weights may be from there."""
DROPPED = 0.9
"""Fraction of images trained without their class from which the classes are hardly learned."""
NEAR_CHANCE = 2.0
"""Class accuracy as a multiple of guessing, up to which the classes are ignored."""
READABLE = 0.5
"""Class accuracy of real images below which the judge says nothing."""
COPIED = 0.6
"""Distance of samples to the nearest training image, as a fraction of that of real images, from which they are copies."""
FEW_STEPS = 6
"""Denoising steps with fewer of which no scheduler gives samples like those of many."""


def few_images(facts: Facts) -> Answer:
    """Too few images to learn more than themselves."""
    count = facts.num_images
    if count is None:
        reason = "the number of images of a stream is not known"
        return Gap(name="size of the data", reason=reason, remedy="count them, and train on several thousand")
    if count >= FEW_IMAGES:
        return None
    epochs = "" if facts.epochs is None else f", each seen {facts.epochs:,.0f} times"
    return Finding(
        name="data too small",
        seen=f"{count:,} training images{epochs}",
        meaning="with so few images a network learns these by heart rather than what they have in common",
        remedy="collect more, several thousand if possible; until then --data.horizontal_flip, if mirrored images are still "
        "right, and fewer steps",
    )


def lagging_average(facts: Facts) -> Answer:
    """A moving average that still holds weights of the start of the run."""
    decay, steps = facts.number("ema", "decay"), facts.step
    inv_gamma, power = facts.number("ema", "inv_gamma") or 1.0, facts.number("ema", "power") or 0.75
    is_sound = decay is not None and 0 <= decay < 1 and inv_gamma > 0 and power > 0
    if decay is None or not is_sound or steps < MIN_STEPS:
        return None
    old = ema_share(decay, inv_gamma, power, first=int(OLD_PART * steps), last=steps)
    if old < LAGGING:
        return None
    test, train = facts.test_losses, facts.losses
    measured = ""
    if len(test) and len(train):
        averaged, trained = number(test.points[-1][1]), number(train.points[-1][1])
        measured = f"; their held-out loss is {averaged}, while the training loss is {trained}"
    catch_up = int(2 / (1 - decay))
    fitting = f"{max(0.0, 1 - 10 / steps):.4g}"
    return Finding(
        name="averaged weights lag",
        seen=f"{old:.0%} of the averaged weights are from the first {int(OLD_PART * steps):,} of {steps:,} steps, as "
        f"--ema.decay is {decay:g} and --ema.power {power:g}{measured}",
        meaning="samples are made with the averaged weights, which are those of an early step: the network itself is better",
        remedy=f"train anew with --ema.decay {fitting} or the default --ema.power 0.75, or about {catch_up:,} steps more",
    )


def dropped_classes(facts: Facts) -> Answer:
    """Classes that are dropped in training, or that samples do not show."""
    data = facts.run.data
    if data is not None and data.classes is None:
        return None
    dropped = facts.number("objective", "class_dropout_prob")
    if dropped is not None and dropped >= DROPPED:
        return Finding(
            name="classes ignored",
            seen=f"with --objective.class_dropout_prob {dropped:g}, {dropped:.0%} of the images were trained without class",
            meaning="the network has hardly seen a class, so that samples of all classes look alike",
            remedy="train anew, in a new --output_dir, with --objective.class_dropout_prob 0.1",
        )
    for name, results in facts.run.results.items():
        accuracy, floor = results.metrics.get("class_accuracy"), results.floor.get("class_accuracy", 0.0)
        classes = len(results.per_class) or (len(data.classes) if data is not None and data.classes else 0)
        if accuracy is None or classes < 2 or floor < READABLE or accuracy.mean > NEAR_CHANCE / classes:
            continue
        return Finding(
            name="classes ignored",
            seen=f"results/{one_line(name, 100)}.json: the judge reads the requested class in {accuracy.mean:.0%} of the "
            f"samples and in {floor:.0%} of real images; guessing gives {1 / classes:.0%}",
            meaning="samples do not depend on the class that is asked for",
            remedy=WRONG_LABELS,
        )
    return None


WRONG_LABELS = (
    "look at images of each class, as in hf-ddpm figures real: are they sorted rightly? Name the right column with "
    "--data.label_column, and train anew"
)


def copied_images(facts: Facts) -> Answer:
    """Samples of a measurement that are nearer to training images than real images are."""
    if facts.run.nearest is None:
        return None
    name, distance, real = facts.run.nearest
    if real <= 0 or distance.mean >= COPIED * real:
        return None
    return Finding(
        name="overfitting",
        seen=f"results/{one_line(name, 100)}.json: samples are {number(distance.mean)} from the nearest training image, "
        f"{distance.mean / real:.2f} x the {number(real)} of real images",
        meaning=COPIES,
        remedy=FEWER_COPIES,
    )


COPIES = "samples are copies of training images rather than new ones"
FEWER_COPIES = "train on more images or for fewer steps; --model.overrides.dropout 0.1 or a smaller network help too"


def scheduler(facts: Facts) -> Answer:
    """A saved scheduler that is not that of the training, or a measurement with too few steps."""
    trained = {
        **{name: facts.option("schedule", name) for name in ("beta_schedule", "num_train_timesteps")},
        "prediction_type": facts.option("objective", "prediction_type"),
        "rescale_betas_zero_snr": facts.option("schedule", "rescale_zero_terminal_snr"),
    }
    saved = facts.saved_scheduler
    # A scheduler that cannot compute the betas has them as numbers, under the name of another schedule.
    differ = [
        f"{name} is {one_line(saved[name], 40)} and was {one_line(value, 40)}"
        for name, value in trained.items()
        if None not in (value, saved.get(name)) and saved[name] != value and saved.get("trained_betas") is None
    ]
    if differ:
        return Finding(
            name="scheduler does not fit",
            seen=f"{facts.folder.pipeline / 'scheduler'}: {'; '.join(differ)} in training",
            meaning="sampling undoes another noise than the network was trained on: samples are unlike those of samples/",
            remedy=f"save the pipeline again: {facts.resume_command}; and choose a scheduler with "
            "hf-ddpm sample --scheduler",
        )
    for name, results in facts.run.results.items():
        used, steps = str(results.protocol.get("scheduler")), results.protocol.get("num_inference_steps")
        if isinstance(steps, int) and steps < FEW_STEPS:
            return Finding(
                name="too few denoising steps",
                seen=f"results/{one_line(name, 100)}.json: sampled in {steps} steps of {one_line(used, 60)}",
                meaning="the samples of this measurement are smoother and less varied than those of samples/, which take "
                f"{_preview(facts)}",
                remedy="--sampling.scheduler dpmsolver++ --sampling.num_inference_steps 20, or 50 steps of another one",
            )
    return None


def _preview(facts: Facts) -> str:
    grid = facts.run.grid
    known = grid is not None and grid.num_inference_steps is not None
    return f"{grid.num_inference_steps} of {one_line(grid.scheduler, 40)}" if grid is not None and known else "more"
