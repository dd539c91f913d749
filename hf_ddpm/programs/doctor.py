r"""Examine a run: what it shows, what that means, and what to do. Reads files only, in a fraction of a second.

    hf-ddpm doctor runs/digits
    hf-ddpm doctor runs/digits --samples              # also samples, which takes longer
    hf-ddpm doctor runs/digits --samples --scheduler ddim --num_inference_steps 10

The exit code is 0 if nothing wrong was found, 1 with a finding, and 2 for a mistake.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import BaseConfig
from hf_ddpm.doctor.examine import NUM_IMAGES, examine
from hf_ddpm.first_checks import check_scheduler
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.libraries import load_libraries


@dataclass(kw_only=True)
class DoctorConfig(BaseConfig):
    """Examine a run."""

    run: Path
    """Run folder; it may also stand first, without a name."""
    samples: bool = False
    """Also generate samples, and compare them with the training images and with the preview."""
    num_images: int | None = None
    """Number of samples; None = 200."""
    scheduler: str | None = None
    """How to sample, see hf-ddpm sample; None = the scheduler saved with the model."""
    num_inference_steps: int | None = None
    """Denoising steps; None = 50, or those of the training if they are fewer."""

    def __post_init__(self):
        super().__post_init__()
        for option in ("num_images", "scheduler", "num_inference_steps"):
            remedy = "it is about samples, add --samples"
            self.require(self.samples or getattr(self, option) is None, option, remedy)
        self.require(self.num_images is None or self.num_images >= 2, "num_images", "give at least 2")
        self.require_positive("num_inference_steps", "steps")


def main(args: list[str] | None = None) -> int:
    args = sys.argv[1:] if args is None else args
    if args and not args[0].startswith("-"):
        args = ["--run", *args]
    config = parse_config(DoctorConfig, args, about=__doc__)
    with user_errors(DoctorConfig):
        if config.scheduler is not None:
            check_scheduler(config.scheduler)
        if config.samples:
            load_libraries()
        examination = examine(
            RunFolder(config.run),
            samples=config.samples,
            num_images=config.num_images or NUM_IMAGES,
            scheduler=config.scheduler,
            num_inference_steps=config.num_inference_steps,
        )
        print(examination)
        return 1 if examination.findings else 0
