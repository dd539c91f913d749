r"""Classify real images with a class-conditional diffusion model, and list those whose label it doubts most.

    hf-ddpm classify --model runs/digits/pipeline --output runs/digits/results/classifier.json
    hf-ddpm classify --model runs/digits/pipeline --split train --num_images null --output doubted.json
    torchrun --nproc_per_node 2 -m hf_ddpm classify ...        # the processes share the images

An image belongs to the class with which the model denoises it best (Li et al. 2023). The accuracy measures what the model
knows of its classes, without a judge. Results in the folder `results` of a run are shown in the model card of its pipeline.
"""

from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.evaluation.classifier_options import ClassifierConfig
from hf_ddpm.first_checks import check_model, check_source
from hf_ddpm.runtime.libraries import load_libraries


def main(args: list[str] | None = None) -> None:
    config = parse_config(ClassifierConfig, args, about=__doc__)
    with user_errors(ClassifierConfig):
        check_model(config.model)
        if config.data.source is not None:
            check_source(config.data.source)
        load_libraries()
        from accelerate import PartialState

        from hf_ddpm.evaluation.classifier import classify
        from hf_ddpm.evaluation.classifier_report import markdown_report

        results = classify(config)
        if PartialState().is_main_process:
            print(markdown_report(results))
            output = Path(config.output)
            print("written:", output, output.with_suffix(".md"), *([output.with_suffix(".png")] if results.doubted else []))
