r"""Distill a trained diffusion model into one that samples in a few steps, with guidance built in.

    hf-ddpm distill --config distill_digits --teacher runs/digits/pipeline --output_dir runs/digits4
    hf-ddpm distill --config runs/digits4/config.yaml --resume auto         # continue it
    hf-ddpm distill --config distill_mnist --teacher runs/mnist_cpu/pipeline \
        --guidance_scale 2 --num_inference_steps 2 --output_dir runs/mnist2
"""

from hf_ddpm.cli import parse_config, take_flag, user_errors
from hf_ddpm.runtime.libraries import load_libraries
from hf_ddpm.training.distill_options import DistillConfig
from hf_ddpm.training.first_checks import check_training


def main(args: list[str] | None = None) -> None:
    wants_estimate, args = take_flag("estimate", args)
    config = parse_config(DistillConfig, args, about=__doc__)
    with user_errors(DistillConfig):
        check_training(config)
        load_libraries()
        from hf_ddpm.training.distillation import distill, training_task

        if wants_estimate:
            from hf_ddpm.training.estimate import estimate_training

            return estimate_training(config, training_task)

        evaluate = None
        if config.evaluation.every_steps is not None:
            from hf_ddpm.evaluation.monitor import Monitor

            evaluate = Monitor(config.evaluation, config.data, config.num_threads)
        distill(config, evaluate)
