"""What the tests of training share: short previews, digits that are decoded once, a program that is run on a mistake."""

from pathlib import Path

import datasets
import pytest

from hf_ddpm.data.sources import open_splits
from hf_ddpm.training import preview

RECIPES = Path(__file__).parents[2] / "train_scripts" / "recipes"


@pytest.fixture(scope="session")
def decoded_digits(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("decoded")


@pytest.fixture(autouse=True)
def private_datasets_cache(decoded_digits, monkeypatch) -> Path:
    """Decoded data is kept out of the user's cache, and between the tests."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", decoded_digits)
    return decoded_digits


@pytest.fixture(autouse=True)
def short_previews(monkeypatch) -> None:
    """Every run ends with a preview, which takes longer than a short training."""
    monkeypatch.setattr(preview, "COLUMNS", 2)
    monkeypatch.setattr(preview, "MAX_INFERENCE_STEPS", 2)


@pytest.fixture(scope="module")
def some_digits(tmp_path_factory) -> str:
    """A data set of 72 of the embedded digits, so that a run is not longer in reading than in training."""
    folder = tmp_path_factory.mktemp("some") / "digits"
    splits, _ = open_splits("digits")
    some = {name: splits[name].select(range(count)) for name, count in (("train", 48), ("test", 24))}
    datasets.DatasetDict(some).save_to_disk(folder)
    return f"--data.source={folder}"


@pytest.fixture(scope="module")
def shared() -> dict:
    """What one test of a file leaves for the others."""
    return {}


@pytest.fixture
def message_of(load_script, some_digits, tmp_path, capsys):
    """Run a program on a mistake; its message."""

    def run(program: str, *options: str) -> str:
        names = {"train": "digits.yaml", "train_gan": "gan_digits.yaml", "train_judge": "judge_digits.yaml"}
        recipe = str(RECIPES / names[program])
        with pytest.raises(SystemExit) as stopped:
            load_script(program).main(["--config", recipe, some_digits, f"--output_dir={tmp_path / 'new'}", *options])
        lines = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2, lines
        assert not (tmp_path / "new").exists(), "nothing is written"
        return lines[-1]

    return run
