"""The end of a run: its weights are published whatever else lies in the run folder, and what users wrote stays."""

import json
from pathlib import Path

import pytest

from hf_ddpm.hub.seal import is_rendered
from hf_ddpm.pipeline import CFGDDPMPipeline

OWN_CARD = "# Mine\n\n![cats](images/cats.png)\n"


@pytest.fixture
def trained(load_script, tiny_options, tmp_path):
    """Train for a number of steps in a run folder, or longer, and return its `pipeline/`."""

    def train(steps: int) -> Path:
        options = [f"--max_train_steps={steps}", f"--output_dir={tmp_path / 'run'}", "--resume=auto"]
        load_script("train").main([*tiny_options, *options])
        return tmp_path / "run" / "pipeline"

    return train


def test_longer_training_keeps_what_a_user_added_and_survives_what_lies_in_results(trained, capsys):
    pipeline = trained(1)
    first = (pipeline / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert is_rendered((pipeline / "README.md").read_text(encoding="utf-8"))
    (pipeline / "LICENSE").write_text("MIT")
    results = pipeline.parent / "results"
    results.mkdir()
    (results / ".eval.partial.json").write_text('{"seeds": {}}')
    (results / "mine.json").write_text(json.dumps([1, 2]))
    (results / "folder.json").mkdir()
    capsys.readouterr()

    trained(2)
    second = (pipeline / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert second != first
    assert "at step 2" in (pipeline / "README.md").read_text(encoding="utf-8")
    assert (pipeline / "LICENSE").read_text() == "MIT"
    errors = capsys.readouterr().err
    assert "warning: left out of the model card: " in errors and "mine.json is damaged" in errors
    assert ".eval.partial.json" not in errors

    (pipeline / "README.md").write_text(OWN_CARD, encoding="utf-8")
    (pipeline / "images").mkdir()
    (pipeline / "images" / "cats.png").write_bytes(b"cats")
    trained(3)
    assert (pipeline / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() != second
    assert (pipeline / "README.md").read_text(encoding="utf-8") == OWN_CARD
    assert (pipeline / "images" / "cats.png").read_bytes() == b"cats"
    assert "README.md was written or edited by hand and stays as it is" in capsys.readouterr().err


def test_a_mistake_in_the_card_does_not_hold_the_weights_back(trained, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise KeyError("of the template")

    monkeypatch.setattr("hf_ddpm.hub.card.render_card", fail)
    pipeline = trained(1)
    CFGDDPMPipeline.from_pretrained(pipeline)
    assert not (pipeline / "README.md").exists()
    command = f"hf-ddpm write-card --model {pipeline}"
    assert f"is not written, KeyError: 'of the template'; to try again: {command}\n" in capsys.readouterr().err
