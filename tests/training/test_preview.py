"""A run's grid of samples, and the record of how it was sampled."""

import numpy as np

from hf_ddpm.figures.grids import image_grid
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sampling import generate, load_pipeline


def test_a_grid_can_be_made_again_from_its_settings(tiny_run, tmp_path):
    run = RunFolder(tiny_run)
    settings = run.read_grid_settings()
    assert (settings.class_labels, settings.class_names) == (list(range(10)), [str(digit) for digit in range(10)])
    assert (settings.columns, settings.seed, settings.num_inference_steps, settings.guidance_scale) == (8, 0, 20, 1.5)
    batches = generate(
        load_pipeline(str(run.pipeline), scheduler=settings.scheduler, device="cpu"),
        class_labels=[label for label in settings.class_labels for _ in range(settings.columns)],
        seed=settings.seed,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
    )
    images = np.concatenate([batch.images for batch in batches])
    image_grid(images, columns=settings.columns, row_names=settings.class_names).save(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == run.last_sample_grid().read_bytes()
