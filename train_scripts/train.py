"""Train a DDPM with classifier-free guidance and save it as a CFGDDPMPipeline.

accelerate launch train_scripts/train.py --config train_scripts/recipes/digits.yaml --output_dir runs/digits
accelerate launch train_scripts/train.py --config train_scripts/recipes/digits.yaml --output_dir runs/digits --resume auto
torchrun --nproc_per_node 2 train_scripts/train.py --config ...        # several processes on a CPU
"""

from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.training.first_checks import check_training
from hf_ddpm.training.options import TrainConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "digits.yaml"


def main(args: list[str] | None = None) -> None:
    config = parse_config(TrainConfig, args, default_recipe=DEFAULT_RECIPE)
    with user_errors(TrainConfig):
        check_training(config)
        from hf_ddpm.training.loop import train

        evaluate = None
        if config.evaluation.every_steps is not None:
            from hf_ddpm.evaluation.monitor import Monitor

            evaluate = Monitor(config.evaluation, config.data, config.num_threads)
        train(config, evaluate)


if __name__ == "__main__":
    main()
