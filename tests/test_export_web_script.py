"""The program export_web: its mistakes are one line before anything is written."""

import pytest

from hf_ddpm.programs import export_web
from hf_ddpm.programs.export_web import ExportWebConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weight_bits=4"], "--weight_bits is 4: expected one of 8, 16, 32"),
        (["--engine_dir=no/such/folder"], "--engine_dir is 'no/such/folder': there is no such folder"),
        (["--title= "], "--title is ' ': give some text, or leave it out"),
        (["--hub.push_to_hub"], "--hub.repo_id is None: name the repository to push to, as OWNER/NAME"),
        (["--hub.repo_id=a/b"], "--hub.repo_id is 'a/b': add --hub.push_to_hub, or leave it out"),
    ],
)
def test_mistakes_in_options(refusal_of, tmp_path, options, message):
    assert message in refusal_of(ExportWebConfig, "--model=a/b", f"--output_dir={tmp_path / 'site'}", *options)


def test_a_folder_with_files_is_refused(refusal_of, tmp_path):
    (tmp_path / "mine.txt").touch()
    message = refusal_of(ExportWebConfig, "--model=a/b", f"--output_dir={tmp_path}")
    assert f"--output_dir is '{tmp_path}': give a new or an empty folder" in message


def test_missing_packages_come_with_the_command_that_installs_them(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_web, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(SystemExit) as stopped:
        export_web.main([f"--model={tiny_run / 'pipeline'}", f"--output_dir={tmp_path / 'site'}"])
    assert stopped.value.code == 2
    assert 'no_such_package is not installed: pip install "hf_ddpm[web]"' in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
