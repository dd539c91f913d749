"""The page in a real browser: the same images as in Python, links, mistakes, requests, keyboard, and what it needs."""

import io
import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsing import pictures_on, serve, wait_for
from PIL import Image

from hf_ddpm.sampling import generate, load_pipeline

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser):
    """A new visitor, whose page must raise no error."""
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    yield page
    context.close()
    assert errors == []


def in_python(site, labels, scheduler, seed, **options) -> np.ndarray:
    pipeline = load_pipeline(str(site.parent / "model"), scheduler=scheduler, device="cpu")
    (batch,) = generate(pipeline, class_labels=labels, seed=seed, rng="counter", **options)
    return batch.images.astype(int)


@pytest.mark.parametrize(
    ("link", "labels", "scheduler", "options"),
    [
        ("class=1&guidance=2.5&sampler=dpmsolver%2B%2B&steps=15&seed=7&number=2", [1, 1], "dpmsolver++", (15, 2.5)),
        ("class=all&guidance=1&sampler=ddim&steps=5&seed=4294967290&number=5", [0, 1, 2, 0, 1], "ddim", (5, 1)),
        ("class=2&guidance=0&sampler=ddim&steps=10&seed=0&number=1", [2], "ddim", (10, 0)),
    ],
)
def test_a_link_shows_the_images_that_python_generates(page, address, site, link, labels, scheduler, options):
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{address}#{link}")
    wait_for(page, "Done:")
    steps, scale = options
    seed = int(page.input_value("#seed"))
    expected = in_python(site, labels, scheduler, seed, num_inference_steps=steps, guidance_scale=scale)
    shown = pictures_on(page, "#clean", len(labels), 8, 8).astype(int)
    assert abs(shown - expected).max() <= 2
    assert expected.std() > 20
    assert {urlsplit(url).netloc for url in requests} == {urlsplit(address).netloc}
    assert "Loaded" in page.inner_text("#about") and "ms a step" in page.inner_text("#timing")


def test_the_form_makes_a_link_and_a_picture_to_keep(page, address):
    page.goto(address)
    wait_for(page, "Done:")
    assert page.title() == "Three pets"
    page.get_by_label("Class", exact=True).select_option("great dane")
    page.get_by_label("Sampler", exact=True).select_option("DDIM")
    page.get_by_label("Steps", exact=True).select_option("3")
    page.get_by_label("Guidance scale", exact=True).fill("2")
    page.get_by_label("Images", exact=True).fill("3")
    page.get_by_label("Seed", exact=True).fill("5")
    page.keyboard.press("Enter")
    wait_for(page, "Done: 3 images of great dane, seed 5")
    assert page.url == f"{address}#class=1&guidance=2&sampler=ddim&steps=3&seed=5&number=3"
    shown = pictures_on(page, "#clean", 3, 8, 8)
    page.locator("summary").click()
    assert "--class_labels 'great dane'" in page.inner_text("#command")

    with page.expect_download() as started:
        page.get_by_role("button", name="Download PNG").click()
    picture = np.asarray(Image.open(io.BytesIO(started.value.path().read_bytes())).convert("RGB"))
    scale = picture.shape[1] // 17
    np.testing.assert_array_equal(picture[::scale, ::scale][:8, :8], shown[0])

    page.go_back()
    wait_for(page, "Done: 4 images of the classes in turn, seed 0")
    page.goto(f"{address}#steps=100&number=16&sampler=ddim")
    page.goto(f"{address}#steps=1&number=2&sampler=ddim")  # while that one runs
    wait_for(page, "Done: 2 images of the classes in turn")
    page.goto(f"{address}#class=1&guidance=2&sampler=ddim&steps=3&seed=5&number=3")
    wait_for(page, "Done: 3 images")
    np.testing.assert_array_equal(pictures_on(page, "#clean", 3, 8, 8), shown)


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("class=9", "The link asks for class “9”: give all, or a number from 0 to 2."),
        ("sampler=magic", "The link asks for sampler “magic”: give dpmsolver++ or ddim."),
        ("seed=-1", "The link asks for seed “-1”: give a whole number from 0 to 4294967295."),
        ("%E0%A4%A", "The link is damaged"),
    ],
)
def test_a_bad_link_is_explained_and_nothing_is_generated(page, address, link, problem):
    page.goto(f"{address}#{link}")
    page.locator("#problem:not(:empty)").wait_for(timeout=120_000)
    alert = page.get_by_role("alert")
    assert problem in alert.inner_text()
    assert page.get_by_label("x_t").count() == 0
    page.get_by_role("button", name="Generate").click()  # the form still works
    wait_for(page, "Done:")
    assert alert.inner_text() == ""


def test_guidance_is_compared_and_a_part_repainted(page, address):
    page.goto(f"{address}#class=0&steps=3&sampler=ddim&number=1")
    wait_for(page, "Done:")
    page.get_by_role("button", name="Compare scales").click()
    page.get_by_role("img", name="cat with guidance scale 8").wait_for()
    wait_for(page, "Done: 7 images of cat")
    assert page.locator("#scales li").all_inner_texts() == [f"s = {s}" for s in (0, 1, 1.5, 2, 3, 5, 8)]

    before = pictures_on(page, "#clean", 1, 8, 8)
    page.get_by_label("Part", exact=True).select_option("upper half")
    page.get_by_role("button", name="Repaint").click()
    page.get_by_role("img", name="The picture with its part repainted").wait_for()
    after = pictures_on(page, "#repainted", 1, 8, 8)
    np.testing.assert_array_equal(after[:, 4:], before[:, 4:])
    assert abs(after[:, :4].astype(int) - before[:, :4]).max() > 5

    box = page.locator("#mask").bounding_box()
    page.get_by_role("button", name="Clear the drawing").click()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 10, steps=5)
    page.mouse.up()
    assert page.locator("#mask").get_attribute("aria-label") != "The first picture; 0 of 64 pixels are marked"


def test_the_keyboard_reaches_everything_and_everything_has_a_name(page, address):
    page.goto(f"{address}#steps=1&number=1")
    wait_for(page, "Done:")
    names = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.evaluate("[document.activeElement.id || document.activeElement.tagName]")[0]
        if focused == "BODY":
            break
        names.append(focused)
    for wanted in ("class", "guidance", "sampler", "steps", "seed", "number", "generate", "download", "compare", "repaint"):
        assert wanted in names
    nameless = "[...document.querySelectorAll('input, select, canvas')].filter(e => !e.labels?.length && !e.ariaLabel)"
    assert page.evaluate(f"{nameless}.map(element => element.id)") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, address, scheme):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "color_scheme": scheme}
    context = browser.new_context(**phone)
    page = context.new_page()
    page.goto(f"{address}#steps=1&number=1")
    wait_for(page, "Done:")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(22, 24, 28)") == (scheme == "dark")
    context.close()


def test_without_simd_there_is_a_clear_message(page, address):
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(address)
    wait_for(page, "it has no WebAssembly SIMD", "#problem")


def test_a_file_that_is_missing_on_the_server_is_named(page, site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "model.onnx").unlink()
    with serve(tmp_path / "site") as address:
        page.goto(address)
        wait_for(page, "model.onnx is missing on the server (404)", "#problem")


def test_names_of_strangers_are_text(page, address):
    page.goto(f"{address}#class=2&steps=1&number=1")
    wait_for(page, "of <b>frog</b>")
    assert page.locator("b").count() == 0
