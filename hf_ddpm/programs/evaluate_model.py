r"""Evaluate a saved pipeline: writes a JSON file that says how to repeat it, a table and a picture.

    hf-ddpm evaluate --model runs/digits/pipeline \
        --features judge:runs/judge_digits --output runs/digits/results/eval.json
    torchrun --nproc_per_node 2 -m hf_ddpm evaluate ...        # the processes share the images
    hf-ddpm judge --config judge_digits --output_dir runs/judge_digits         # trains that judge

Results in the folder `results` of a run are shown in the model card of its pipeline.
"""

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.first_checks import check_measurement
from hf_ddpm.runtime.libraries import load_libraries


def main(args: list[str] | None = None) -> None:
    config = parse_config(EvaluationConfig, args, about=__doc__)
    with user_errors(EvaluationConfig):
        schedulers, source = [config.sampling.scheduler], config.data.source
        check_measurement(model=config.model, features=config.features, schedulers=schedulers, source=source)
        load_libraries()
        from accelerate import PartialState

        from hf_ddpm.evaluation.protocol import evaluate
        from hf_ddpm.evaluation.report import markdown_report, write_report

        results = evaluate(config)
        if PartialState().is_main_process:
            paths = write_report(results, config)
            print(markdown_report(results))
            print("written:", config.output, *paths)
