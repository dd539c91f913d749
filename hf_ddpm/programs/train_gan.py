"""Train a DCGAN, the baseline for the diffusion models, and save it as a DCGANPipeline.

hf-ddpm gan --config gan_digits --output_dir runs/gan
hf-ddpm gan --config runs/gan/config.yaml --resume auto         # continue it
"""

from hf_ddpm.cli import parse_config, take_flag, user_errors
from hf_ddpm.runtime.libraries import load_libraries
from hf_ddpm.training.first_checks import check_training
from hf_ddpm.training.options import GANConfig


def main(args: list[str] | None = None) -> None:
    wants_estimate, args = take_flag("estimate", args)
    config = parse_config(GANConfig, args, about=__doc__)
    with user_errors(GANConfig):
        check_training(config)
        load_libraries()
        from hf_ddpm.training.gan import train_gan, training_task

        if wants_estimate:
            from hf_ddpm.training.estimate import estimate_training

            return estimate_training(config, training_task)

        train_gan(config)
