"""The page about a run: one file, whole for every kind of run, and safe whatever the files of the run say."""

import base64
import html.parser
import json
import re

import numpy as np
import PIL.Image
import pytest

from hf_ddpm.doctor.examine import examine
from hf_ddpm.hub.facts import read_run
from hf_ddpm.programs.report import main
from hf_ddpm.report import page
from hf_ddpm.report.page import read_grids, render_report, write_report
from hf_ddpm.run_folder import GridSettings, RunFolder


class Page(html.parser.HTMLParser):
    """Elements of a page, its text, and the addresses that it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def draw_grids(run: RunFolder, steps: list[int], names: list[str] | None = None) -> None:
    """Write a sample grid of one brightness for each step."""
    for brightness, step in enumerate(steps):
        path = run.sample_grid(step)
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(np.full((8, 8), brightness, np.uint8)).save(path)
    settings = GridSettings(
        columns=2, class_labels=[0, 1], class_names=names, seed=0, scheduler="ddim", num_inference_steps=10,
        guidance_scale=1.5,
    )  # fmt: skip
    run.grid_settings.write_text(settings.to_json(), encoding="utf-8")


def page_of(run: RunFolder) -> Page:
    write_report(run, run.report)
    return Page(run.report.read_text(encoding="utf-8"))


def test_the_page_holds_everything(write_run, good_losses, results_of):
    run = write_run(good_losses, {500: 0.265, 1000: 0.241})
    draw_grids(run, [500, 1000], ["cat", "dog"])
    protocol = {
        "seeds": [0, 1], "num_images": 500, "scheduler": "DDIMScheduler", "num_inference_steps": 10, "guidance_scale": 1.5,
        "reference_split": "train", "features": "judge",
    }  # fmt: skip
    results_of(run, floor={"fd_judge": 0.5}, protocol=protocol, fd_judge=1.25, class_accuracy=0.97)
    found = page_of(run)
    for text in (
        "step 1,000 of 1,000", "rows: cat, dog; 10 steps of ddim", "Nothing wrong was found", "fd_judge", "1.25", "0.5",
        "2 seeds of 500 images, 10 steps of DDIMScheduler, s = 1.5, against the train split, judge", "2: cat (2,500), dog",
        "max_train_steps: 1000",
    ):  # fmt: skip
        assert text in found.text
    assert found.elements.count("input") == 1 and found.elements.count("img") == 3
    assert all(address.startswith("data:image/") for address in found.addresses)  # nothing is fetched


def test_the_slider_shows_each_grid(write_run, good_losses):
    run = write_run(good_losses)
    draw_grids(run, [100, 200, 300])
    text = render_report("run", read_run(run), examine(run), run)
    script = text.split("const grids = [")[1].split("];")[0]
    found = re.findall(r'\{step: "(\d+)", url: "data:image/png;base64,([^"]+)"\}', script)
    assert [step for step, _ in found] == ["100", "200", "300"]
    assert [base64.b64decode(content) for _, content in found] == [
        run.sample_grid(it).read_bytes() for it in (100, 200, 300)
    ]


def test_of_many_grids_some_are_left_out_and_the_last_is_there(write_run, good_losses, monkeypatch):
    monkeypatch.setattr(page, "MAX_GRIDS", 3)
    run = write_run(good_losses)
    draw_grids(run, list(range(100, 1100, 100)))
    assert [grid.step for grid in read_grids(run)] == [300, 600, 1000]
    assert "7 of the sample grids" in page_of(run).text


def test_a_run_that_has_only_begun(write_run):
    found = page_of(write_run([], total_steps=1000))
    assert "img" not in found.elements and "script" not in found.elements
    assert "max_train_steps: 1000" in found.text


def test_what_the_doctor_found_is_on_the_page(write_run):
    found = page_of(write_run([1.0, 0.3, 0.1, 0.8, *[0.4] * 16]))
    assert "learning rate too high" in found.text and "--optim.learning_rate" in found.text


def test_names_of_strangers_stay_text(write_run, good_losses):
    attack = "</script><script>alert(1)</script><img src=https://evil.example/x>"
    run = write_run(good_losses)
    draw_grids(run, [500, 1000], [attack, "dog"])
    data = json.loads(run.data.read_text())
    data["classes"][0]["name"] = data["source"] = attack
    run.data.write_text(json.dumps(data))
    found = page_of(run)
    assert found.elements.count("script") == 1 and "evil.example" in found.text
    assert not any("evil" in address for address in found.addresses)


def test_paths_of_the_machine_stay_here(write_run, good_losses):
    run = write_run(good_losses)
    data = json.loads(run.data.read_text())
    run.data.write_text(json.dumps({**data, "source": "/home/me/secret/images"}))
    text = page_of(run).text
    assert "secret" not in text and str(run.path) not in text and "images, split" in text


def test_damaged_files_are_left_out_and_named(write_run, good_losses, caplog):
    run = write_run(good_losses)
    draw_grids(run, [500, 1000])
    run.sample_grid(1000).write_bytes(b"no picture")
    run.data.write_text("{")
    found = page_of(run)
    assert "Step 500" in found.text
    assert "left out of the report" in caplog.text and "step-00001000.png is damaged" in caplog.text
    assert "data.json" in caplog.text


@pytest.mark.parametrize(
    ("output", "message"),
    [("notes.html", "notes.html': the file exists and is not a report"), (".", "it is a folder, give a file such as")],
)
def test_other_files_are_not_replaced(write_run, good_losses, output, message):
    run = write_run(good_losses)
    (run.path / "notes.html").write_text("<p>mine")
    with pytest.raises(ValueError, match=message):
        write_report(run, run.path / output)
    assert (run.path / "notes.html").read_text() == "<p>mine"


def test_the_command_writes_into_the_run_folder_and_replaces_its_own_page(write_run, good_losses, capsys):
    run = write_run(good_losses)
    for _ in range(2):
        main([str(run.path)])
    assert run.report.is_file() and f"report: {run.report}" in capsys.readouterr().out


def test_a_folder_that_is_not_a_run_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
