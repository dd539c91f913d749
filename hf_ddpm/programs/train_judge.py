"""Train a judge, a classifier that measures samples, and save it as output_dir/judge.

    hf-ddpm judge --config judge_digits --output_dir runs/judge_digits
    hf-ddpm judge --config runs/judge_digits/config.yaml --resume auto

Programs that measure samples then take `--features judge:runs/judge_digits`.
"""

from hf_ddpm.cli import parse_config, take_flag, user_errors
from hf_ddpm.runtime.libraries import load_libraries
from hf_ddpm.training.first_checks import check_training
from hf_ddpm.training.options import JudgeConfig


def main(args: list[str] | None = None) -> None:
    wants_estimate, args = take_flag("estimate", args)
    config = parse_config(JudgeConfig, args, about=__doc__)
    with user_errors(JudgeConfig):
        check_training(config)
        load_libraries()
        from hf_ddpm.training.judge import train_judge, training_task

        if wants_estimate:
            from hf_ddpm.training.estimate import estimate_training

            return estimate_training(config, training_task)

        train_judge(config)
