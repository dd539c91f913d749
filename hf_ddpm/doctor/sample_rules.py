"""Rules about what was measured on samples. README.md has the measured example of each threshold."""

from __future__ import annotations

import statistics

from hf_ddpm.doctor.finding import Answer, Finding, Gap
from hf_ddpm.doctor.measured import Measured
from hf_ddpm.doctor.setup_rules import COPIED, COPIES, FEWER_COPIES, WRONG_LABELS
from hf_ddpm.markdown import number

NO_GAIN = 0.02
"""Fraction by which the right labels lower the loss, below which they make no difference."""
CERTAIN = 3
"""Standard errors above 0 from which they do make one, however small: in images of many details it is."""
UNLIKE = 1.4
"""Fréchet distance of samples to the training images, as a multiple of that of the preview, from which they are worse."""


def copies(measured: Measured) -> Answer:
    """Samples that are nearer to training images than real images are."""
    distances = measured.real.distances
    real = statistics.fmean(distances) if distances else 0.0
    if real == 0:
        reason = "no real image differs from all training images"
        return Gap(name="overfitting by the nearest image", reason=reason, remedy="hold out others, with --data.test_split")
    samples = statistics.fmean(measured.samples.distances)
    if samples >= COPIED * real:
        return None
    kind = "of held-out images" if measured.real.is_held_out else "from one training image to the next"
    return Finding(
        name="overfitting",
        seen=f"{len(measured.samples.distances)} samples are {number(samples)} from the nearest training image, "
        f"{samples / real:.2f} x the {number(real)} {kind}",
        meaning=COPIES,
        remedy=FEWER_COPIES,
    )


def ignored_classes(measured: Measured) -> Answer:
    """A loss that does not depend on whether the labels are right."""
    gain = measured.label_gain
    if gain is None or gain.mean >= min(NO_GAIN, CERTAIN * gain.stderr):
        return None
    if gain.stderr > NO_GAIN:
        reason = f"{gain.num_images} images are too few to see whether the right labels lower the loss"
        return Gap(name="use of the classes", reason=reason, remedy="hold out more, with --data.test_split")
    images = "held-out" if gain.is_held_out else "training"
    return Finding(
        name="classes ignored",
        seen=f"the right labels lower the loss of {gain.num_images} {images} images by {gain.mean:.1%} ± {gain.stderr:.1%}, "
        "compared with wrong ones",
        meaning="the network draws much the same whichever class is asked for: the labels do not match the images, or it "
        "was hardly trained with them",
        remedy=WRONG_LABELS,
    )


def unlike_preview(measured: Measured) -> Answer:
    """Samples that are further from the data than those of the preview, which are of the same weights."""
    samples, preview = measured.samples, measured.preview
    if preview is None or samples.frechet < UNLIKE * preview.frechet:
        return None
    as_previewed = f"{preview.num_inference_steps} steps of {preview.scheduler}"
    return Finding(
        name="scheduler does not fit",
        seen=f"{samples.num_inference_steps} steps of {samples.scheduler} give samples at a Fréchet distance of "
        f"{number(samples.frechet)} to the training images, in pixels; {as_previewed}, as in samples/, "
        f"{number(preview.frechet)}",
        meaning="the same weights can do better: the scheduler or its number of steps does not fit the model",
        remedy=f"hf-ddpm sample --scheduler {preview.scheduler} --num_inference_steps {preview.num_inference_steps}",
    )
