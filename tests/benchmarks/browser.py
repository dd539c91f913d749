"""Pages of trained models in headless Chromium: size, seconds to the first images, ms a step, difference to Python.

python tests/benchmarks/browser.py --models runs/digits/pipeline runs/mnist_cpu/pipeline --screenshots pictures
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import print_machine, print_table

from hf_ddpm.sampling import generate, image_shape_of, load_pipeline
from hf_ddpm.web.site import default_title, export_site

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))
from browsing import open_browser, pictures_on, serve, wait_for

SAMPLERS = {"dpmsolver++": "dpmsolver%2B%2B", "ddim": "ddim"}
SIZES = {"desktop": (1200, 900), "phone": (390, 1400)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", required=True, help="folders of pipelines with classes and a null label")
    parser.add_argument("--weight_bits", type=int, default=16, choices=(8, 16, 32))
    parser.add_argument("--rounds", type=int, default=3, help="visits of a page")
    parser.add_argument("--number", type=int, default=4, help="images")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the pages; None = none are taken")
    arguments = parser.parse_args()

    rows = []
    with open_browser() as browser:
        print_machine(f"Chromium {browser.version}, {arguments.number} images, 20 steps, guidance scale 2")
        for model in arguments.models:
            with tempfile.TemporaryDirectory() as folder:
                rows += rows_of(browser, model, Path(folder) / "site", arguments)
    header = ["model", "site, MB", "network, MB", "sampler", "first images, s", "ms a step", "largest difference of 255"]
    print_table(header, rows)


def rows_of(browser: Any, model: str, folder: Path, arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Visit the page of a model several times with each sampler."""
    pipeline = load_pipeline(model, device="cpu")
    site = export_site(pipeline, folder, model=model, weight_bits=arguments.weight_bits)
    name, shape = default_title(model), image_shape_of(pipeline)
    with serve(folder) as address:
        for sampler, quoted in SAMPLERS.items():
            link = f"class=3&guidance=2&sampler={quoted}&steps=20&seed=0&number={arguments.number}"
            first, step = [], []
            for _ in range(arguments.rounds):
                page = browser.new_page()
                started = time.perf_counter()
                page.goto(f"{address}#{link}")
                wait_for(page, "Done:")
                first.append(time.perf_counter() - started)
                step.append(float(page.evaluate("document.body.dataset.step")))
                shown = pictures_on(page, "#clean", arguments.number, *shape[1:])
                page.close()
            labels = [3] * arguments.number
            pipeline = load_pipeline(model, scheduler=sampler, device="cpu")
            options = {"guidance_scale": 2.0, "num_inference_steps": 20, "rng": "counter"}
            (batch,) = generate(pipeline, class_labels=labels, **options)
            difference = abs(shown.astype(int) - batch.images).max()
            sizes = [f"{size / 1e6:.1f}" for size in (site.num_bytes, site.model_bytes)]
            times = f"{statistics.median(first):.1f}", f"{statistics.median(step):.0f}"
            yield [name, *sizes, sampler, *times, str(difference)]
        if arguments.screenshots:
            take_screenshots(browser, address, arguments.screenshots, name)


def take_screenshots(browser: Any, address: str, folder: Path, name: str) -> None:
    """The page on a desktop and, dark, on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    for device, (width, height) in SIZES.items():
        is_phone = device == "phone"
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if is_phone else "light", is_mobile=is_phone
        )
        page.goto(f"{address}#class=all&guidance=2&sampler=dpmsolver%2B%2B&steps=20&seed=20&number=9")
        wait_for(page, "Done: 9")
        page.get_by_role("button", name="Compare scales").click()
        wait_for(page, "Done: 7 images of 0")
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=folder / f"{name}_{device}.png")
        page.close()


if __name__ == "__main__":
    main()
