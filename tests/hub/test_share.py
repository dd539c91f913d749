"""A folder to share: what is in it, that its model loads and draws the same, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import metadata_load
from safetensors.torch import load_file, save_file

from hf_ddpm.data.load_splits import options_of_run
from hf_ddpm.hub.card import files_to_publish, find_run, write_card
from hf_ddpm.hub.choices import CardChoices
from hf_ddpm.hub.share import write_shared
from hf_ddpm.markdown import mean_with_error
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.results import Results
from hf_ddpm.run_folder import RunFolder

PETS = {0: "cat", 1: "great dane", 2: "dog"}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
RECORD = {"config.yaml", "environment.json", "metrics.jsonl", "samples/step-00000300.png"}
RESULT = {
    "metrics": {"fd_judge": {"mean": 0.9375, "stderr": 0.0125, "n": 360, "values": [0.93, 0.945]}},
    "floor": {"fd_judge": 0.25},
    "ceiling": {},
    "protocol": {"command": "hf-ddpm evaluate --features judge:/home/ada/judge", "features": "judge"},
}


@pytest.fixture
def model(make_run) -> Path:
    """The pipeline of a run with a result."""
    folder = make_run(PETS, 3, source="/home/ada/pets")
    (folder.parent / "results").mkdir()
    (folder.parent / "results" / "eval.json").write_text(json.dumps(RESULT), encoding="utf-8")
    return folder


@pytest.fixture
def main(load_script):
    return load_script("write_card").main


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def check_private(folder: Path, tmp_path: Path) -> None:
    """No text has a path of this machine."""
    for name in sorted(files_of(folder)):
        if Path(name).suffix in (".md", ".json", ".yaml", ".jsonl"):
            text = (folder / name).read_text(encoding="utf-8")
            assert "/home/ada" not in text and str(tmp_path) not in text, name


def test_a_card_alone_has_what_it_is_rendered_from_beside_it(model, tmp_path):
    write_shared(model, tmp_path / "shared")
    assert files_of(tmp_path / "shared") == {*RECORD, "README.md", "samples.png", "results/eval.json"}
    check_private(tmp_path / "shared", tmp_path)
    card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    assert "The files named here are beside this card." in card
    assert "The model is not in this folder, which has its card alone" in card
    assert "0.94 ± 0.01" in card and "300 steps" in card
    run = RunFolder(tmp_path / "shared")
    assert [line["step"] for line in run.read_metrics()] == [150, 300, 300]
    assert run.read_options()["data"]["source"] == "path/to/images"
    assert Results.read(run.results / "eval.json").metrics == Results.from_json(json.dumps(RESULT)).metrics


def test_weights_of_16_bits_draw_the_same_images_in_float32(model, tmp_path):
    folder = tmp_path / "shared"
    choices = CardChoices(license="apache-2.0", dataset="ada/pets")
    write_shared(model, folder, weights="float16", choices=choices, compared_images=6)
    check_private(folder, tmp_path)
    assert {tensor.dtype for tensor in load_file(folder / WEIGHTS).values()} == {torch.float16}
    assert 2 * (folder / WEIGHTS).stat().st_size == pytest.approx((model / WEIGHTS).stat().st_size, rel=0.3)
    images = []
    for place in (model, folder):
        pipeline = CFGDDPMPipeline.from_pretrained(place)
        assert pipeline.unet.dtype == torch.float32
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(pipeline([0, 2], num_inference_steps=3, generator=generator, output_type="np").images)
    assert np.abs(images[0] - images[1]).max() < 0.02
    found = Results.read(folder / "results" / "weights_float16.json").metrics
    assert {metric.n for metric in found.values()} == {6}
    assert found["largest_pixel_difference"].mean <= 5 and found["equal_pixels"].mean > 0.5
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| Stored in | float16, and loaded in float32" in card
    largest = mean_with_error(found["largest_pixel_difference"].mean, None)
    assert f"| `largest_pixel_difference` | {largest} | 6 |" in card


def test_the_card_of_a_shared_model_is_rendered_from_its_own_folder(model, tmp_path):
    folder = tmp_path / "shared"
    write_shared(model, folder, weights="float32", choices=CardChoices(license="mit", dataset="ada/pets"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert find_run(folder) == folder
    assert write_card(folder, find_run(folder))
    assert (folder / "README.md").read_text(encoding="utf-8") == card
    # On the Hub its record is not beside it.
    published = files_to_publish(folder, "ada/pets")["README.md"].decode()
    assert "The files named here are in the run folder, not in this repository." in published
    assert "license: mit" in published and "0.94 ± 0.01" in published


def test_a_shared_model_says_what_it_was_trained_on(make_run, tmp_path):
    write_shared(make_run(PETS, 3), tmp_path / "shared", weights="float32")
    assert options_of_run(str(tmp_path / "shared"))["source"] == "digits"
    card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    assert "*Optical Recognition of Handwritten Digits*" in card


def test_a_model_of_an_earlier_version_gets_the_code_of_this_one(model, tmp_path):
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "_class_name": "CFGDDPMPipeline"}))
    (model / "pipeline.py").write_text("old = True\n")
    write_shared(model, tmp_path / "shared", weights="float32")
    assert json.loads((tmp_path / "shared" / "model_index.json").read_text()) == index
    assert "class CFGDDPMPipeline" in (tmp_path / "shared" / "pipeline.py").read_text()


def test_weights_beyond_the_range_of_16_bits_are_refused(model, tmp_path):
    weights = load_file(model / WEIGHTS)
    weights["conv_in.bias"][0] = 1e6
    save_file(weights, model / WEIGHTS)
    with pytest.raises(ValueError, match=r"--weights is 'float16': .*conv_in.bias is beyond its range, give float32"):
        write_shared(model, tmp_path / "shared", weights="float16")
    assert not (tmp_path / "shared").exists()


def test_a_card_written_by_hand_is_taken_along(model, tmp_path):
    (model / "README.md").write_text("# Mine\n")
    write_shared(model, tmp_path / "shared", weights="float32")
    assert (tmp_path / "shared" / "README.md").read_text() == "# Mine\n"
    with pytest.raises(ValueError, match=r"--license is 'mit': .* was written or edited by hand, write it there yourself"):
        write_shared(model, tmp_path / "other", choices=CardChoices(license="mit"))


def test_a_card_whose_run_is_gone_is_taken_along(model, tmp_path):
    write_card(model, model.parent)
    model.rename(tmp_path / "copy")
    write_shared(tmp_path / "copy", tmp_path / "shared", weights="float32")
    assert (tmp_path / "shared" / "README.md").read_bytes() == (tmp_path / "copy" / "README.md").read_bytes()
    with pytest.raises(ValueError, match="--license is 'mit': the run that the card was rendered from is gone"):
        write_shared(tmp_path / "copy", tmp_path / "other", choices=CardChoices(license="mit"))


def test_license_and_data_set_are_kept_until_others_are_chosen(model, capsys, main):
    main(["--model", str(model), "--license", "apache-2.0", "--dataset", "ylecun/mnist"])
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "- License of the weights: `apache-2.0`." in card
    assert "Trained on a copy of the data set `ylecun/mnist` of the Hub, in a local folder" in card
    assert "License: MIT according to its card on the Hub" in card
    metadata = metadata_load(model / "README.md")
    assert (metadata["license"], metadata["datasets"]) == ("apache-2.0", ["ylecun/mnist"])
    main(["--model", str(model)])
    assert (model / "README.md").read_text(encoding="utf-8") == card
    main(["--model", str(model), "--license", "mit"])
    assert metadata_load(model / "README.md")["license"] == "mit"
    assert metadata_load(model / "README.md")["datasets"] == ["ylecun/mnist"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--license", "Apache License"], r"--license is 'Apache License': give its name on the Hub"),
        (["--dataset", "mnist"], r"--dataset is 'mnist': give its id on the Hub"),
        (["--dataset", "ylecun/mnist"], r"--dataset is 'ylecun/mnist': the run has read 'digits', leave it out"),
        (["--weights", "float16"], r"--weights is 'float16': give an --output_dir"),
        (["--output_dir", "new", "--compared_images", "3"], r"--compared_images is 3: give --weights float16"),
        (["--output_dir", "."], r"--output_dir is '.': give a new or an empty folder"),
    ],
)
def test_a_mistake_is_one_line(make_run, main, capsys, options, message, monkeypatch):
    model = make_run(PETS, 3)
    monkeypatch.chdir(model.parent)
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(model), *options])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.count("\n") == 1
    assert re.search(message, err)
    assert not (model / "README.md").exists() and not Path("new").exists()


def test_the_script_writes_the_folder(make_run, main, capsys, tmp_path):
    model = make_run(PETS, 3)
    folder = tmp_path / "shared"
    main(["--model", str(model), "--output_dir", str(folder), "--weights", "float16", "--compared_images", "2"])
    assert re.search(rf"^{folder}: [\d.]+ MB; the card: {folder}/README.md$", capsys.readouterr().out, re.MULTILINE)
    assert {WEIGHTS, "README.md", "results/weights_float16.json"} <= files_of(folder)


def test_a_license_that_cannot_be_published_is_refused(hub, push, pipeline_dir, tmp_path):
    write_card(pipeline_dir, pipeline_dir.parent)
    push(choices=CardChoices(license="mit"))
    assert b"license: mit" in hub.repositories["ada/pets"].files["README.md"]
    pipeline_dir.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="--license is 'mit': the run that the card was rendered from is gone"):
        files_to_publish(tmp_path / "moved", "ada/pets", CardChoices(license="mit"))
