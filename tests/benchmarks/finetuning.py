"""What a training gains that starts from a trained model, against the same training from random weights.

    python train_scripts/train_judge.py --config train_scripts/recipes/judge_digits.yaml --data.image_size 28 \
        --output_dir runs/judge_digits28
    python tests/benchmarks/finetuning.py --model runs/mnist_cpu/pipeline --judge runs/judge_digits28 --minutes 2 5 \
        --output_dir runs/finetuning

Times a step of the model's network, and trains it for as many steps as each time allows, from both starts with the same
options, data order and noise. Prints a row of a Markdown table for each training: the metrics of the judge on samples of its
averaged weights, and those of real images in the last row. A trained model that is there already is measured again only.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from measuring import print_machine, print_table

from hf_ddpm.config import CheckpointConfig, LoggingConfig, ModelConfig, OptimConfig
from hf_ddpm.data.options import DataConfig
from hf_ddpm.evaluation.options import EvaluationConfig, ReferenceDataConfig, SamplingConfig
from hf_ddpm.evaluation.protocol import evaluate
from hf_ddpm.experiments.equal_time import seconds_per_step
from hf_ddpm.markdown import mean_with_error, number
from hf_ddpm.models.base_model import ARCHITECTURES, FROM_IMAGES
from hf_ddpm.models.judge import load_judge
from hf_ddpm.results import Results
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

METRICS = ("class_accuracy", "fd_judge", "precision", "recall")
STARTS = ("the model", "random weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of the model to start from")
    parser.add_argument("--judge", required=True, help="folder of a judge of the images to train on")
    parser.add_argument("--source", default="digits", help="the images to train on")
    parser.add_argument("--test_split", default="test")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5], help="of training")
    parser.add_argument("--steps", type=int, nargs="+", help="instead of minutes")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[1e-3], help="each is tried with both starts")
    parser.add_argument("--num_images", type=int, default=1000, help="samples per seed")
    parser.add_argument("--num_inference_steps", type=int, default=20)
    parser.add_argument("--min_judge_accuracy", type=float, default=0.98)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int)
    parser.add_argument("--mixed_precision", default="auto")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the trainings and their results")
    options = parser.parse_args()

    judge = load_judge(options.judge).record
    data = DataConfig(
        source=options.source, test_split=options.test_split, image_size=judge.image_size, batch_size=options.batch_size
    )
    config = TrainConfig(
        output_dir=str(options.output_dir),
        max_train_steps=1,
        seed=options.seed,
        num_threads=options.num_threads,
        mixed_precision=options.mixed_precision,
        data=data,
        model=ModelConfig(init_from=options.model),
        optim=OptimConfig(lr_warmup_steps=20),
        checkpoint=CheckpointConfig(every_steps=None),
        logging=LoggingConfig(sample_every_steps=None),
    )
    assert config.base is not None
    lengths = {f"{steps} steps": steps for steps in options.steps or ()}
    if options.steps is None:
        seconds = seconds_per_step(config, options.output_dir / "timing")
        lengths = {f"{minutes:g} min": max(1, int(60 * minutes / seconds)) for minutes in options.minutes}
    print_machine(f"{options.model}, then {options.source}", f"{options.num_images} samples per seed")

    def results_of(start: str, steps: int, learning_rate: float) -> Results:
        """Train from a start, unless that has been done, and measure the result."""
        folder = RunFolder(options.output_dir / f"{start.replace(' ', '_')}-{steps}-{learning_rate:g}")
        if not folder.pipeline.is_dir():
            optim = replace(config.optim, learning_rate=learning_rate, lr_warmup_steps=min(20, steps))
            run = replace(config, output_dir=str(folder.path), max_train_steps=steps, optim=optim)
            train(run if start == STARTS[0] else from_random_weights(run))
        output = folder.results / "finetuning.json"
        output.unlink(missing_ok=True)
        return evaluate(
            EvaluationConfig(
                model=str(folder.pipeline),
                output=output,
                features=f"judge:{options.judge}",
                num_images=options.num_images,
                min_judge_accuracy=options.min_judge_accuracy,
                num_threads=options.num_threads,
                data=ReferenceDataConfig(source=options.source, test_split=options.test_split),
                sampling=SamplingConfig(scheduler="dpmsolver++", num_inference_steps=options.num_inference_steps),
            )
        )

    rows, results, names = list[list[str]](), None, list[str]()
    for length, steps in lengths.items():
        for learning_rate in options.learning_rates:
            for start in STARTS:
                results = results_of(start, steps, learning_rate)
                names = [name for name in METRICS if name in results.metrics]
                values = [mean_with_error(results.metrics[name].mean, results.metrics[name].stderr) for name in names]
                rows.append([length, f"{steps:,}", f"{learning_rate:g}", start, *values])
    assert results is not None
    rows.append(["", "", "", "real images", *(number(results.floor.get(name)) for name in names)])
    print_table(["training", "steps", "learning rate", "start", *names], rows)


def from_random_weights(run: TrainConfig) -> TrainConfig:
    """The same run of the same network, without the weights of the model."""
    assert run.base is not None
    own = {name: value for name, value in run.base.arguments.items() if name not in FROM_IMAGES}
    model = ModelConfig(preset="digits8", overrides=own, architecture=ARCHITECTURES[run.base.class_name])
    return replace(run, model=model)


if __name__ == "__main__":
    main()
