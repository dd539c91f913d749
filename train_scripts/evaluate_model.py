"""Measure the samples of a saved pipeline: a JSON file with everything to repeat it, a Markdown table and a picture.

    python train_scripts/train_judge.py --config train_scripts/recipes/judge_digits.yaml --output_dir runs/judge_digits
    python train_scripts/evaluate_model.py --model runs/digits/pipeline --features judge:runs/judge_digits \
        --output runs/digits/results/eval.json
    torchrun --nproc_per_node 2 train_scripts/evaluate_model.py ...        # the processes share the images

Results in the folder `results` of a run enter the model card of its pipeline.
"""

from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.evaluation.options import EvaluationConfig


def main(args: list[str] | None = None) -> None:
    config = parse_config(EvaluationConfig, args)
    with user_errors(EvaluationConfig):
        from accelerate import PartialState

        from hf_ddpm.evaluation.protocol import evaluate
        from hf_ddpm.evaluation.report import markdown_report
        from hf_ddpm.figures.measurements import plot_measurement
        from hf_ddpm.hub.card import write_card
        from hf_ddpm.runtime.files import write_whole

        results = evaluate(config)
        if not PartialState().is_main_process:
            return
        output, model = Path(config.output), Path(config.model)
        report = markdown_report(results)
        write_whole(output.with_suffix(".md"), report)
        write_whole(output.with_suffix(".png"), lambda path: plot_measurement(results, path, title=config.model))
        print(report)
        print(f"results: {output}, {output.with_suffix('.md').name}, {output.with_suffix('.png').name}")
        run = output.parent.parent
        is_own = output.parent.name == "results" and model.resolve() == (run / "pipeline").resolve()
        has_card = "scheduler" in results.protocol  # cards tell of diffusion models
        if is_own and has_card and (run / "config.yaml").is_file():
            write_card(model, run)
            print(f"card:    {model / 'README.md'}")


if __name__ == "__main__":
    main()
