"""What the tests of the small training programs share: a few digits, and a program that is run on a mistake."""

import datasets
import pytest

from hf_ddpm.data.sources import open_splits


@pytest.fixture(scope="module")
def some_digits(tmp_path_factory) -> str:
    """A data set of 72 of the embedded digits, so that a run is not longer in reading than in training."""
    folder = tmp_path_factory.mktemp("some") / "digits"
    splits = open_splits("digits")
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
        with pytest.raises(SystemExit) as stopped:
            load_script(program).main([some_digits, f"--output_dir={tmp_path / 'new'}", *options])
        lines = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2, lines
        assert not (tmp_path / "new").exists(), "nothing is written"
        return lines[-1]

    return run
