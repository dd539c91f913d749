"""Where a run keeps what, and which run a model belongs to."""

from pathlib import Path

import pytest

from hf_ddpm.run_folder import STATE, GridSettings, RunFolder, find_name_fault


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run with two checkpoints and two grids, and beside them what is none."""
    run = RunFolder(tmp_path / "run")
    for step in (1000, 200):
        run.checkpoint(step).mkdir(parents=True)
        run.sample_grid(step).parent.mkdir(exist_ok=True)
        run.sample_grid(step).touch()
    for name in ("step-new", ".step-00000300.partial", "notes"):
        (run.path / "checkpoints" / name).mkdir()
    (run.path / "checkpoints" / "step-00000400").touch()
    (run.path / "samples" / "step-x.png").touch()
    run.pipeline.mkdir()
    run.config.write_text("seed: 3\ndata:\n  source: digits\n")
    return run


def test_checkpoints_and_grids_are_found_by_step_oldest_first(run):
    assert list(run.checkpoints().items()) == [(200, run.checkpoint(200)), (1000, run.checkpoint(1000))]
    assert list(run.sample_grids().items()) == [(200, run.sample_grid(200)), (1000, run.sample_grid(1000))]
    assert run.last_sample_grid() == run.sample_grid(1000)
    assert run.checkpoint(1000).name == "step-00001000" and run.sample_grid(7).name == "step-00000007.png"


@pytest.mark.parametrize(
    "line",
    [
        b"Epoch 3: loss 0.2", b'{"step": 3, "lo', b"\x00\xff\xfe", b"[]", b"3", b"null", b'{"loss": 1}', b'{"step": true}',
        b'{"step": -1}', b'{"step": 1.5}', b'{"step": "3"}', b'{"step": 3, "loss": "0.1"}', b'{"step": 3, "note": [1]}',
        b"[" * 100_000, b'{"step": 1' + b"0" * 5000 + b"}", b'{"step": 1, "loss": 1' + b"0" * 400 + b"}",
    ],
    ids=lambda line: line[:20].decode("latin1"),
)  # fmt: skip
def test_a_line_of_the_log_that_is_anything_else_is_left_out_and_said(run, caplog, line):
    run.metrics.write_bytes(b'{"step": 1, "loss": 0.5}\n' + line + b'\n\n{"step": 2, "loss": NaN}\n')
    assert [record["step"] for record in run.read_metrics()] == [1, 2]
    assert caplog.messages == [f"{run.metrics}: left out line 2, not a step with its numbers"]


def test_many_such_lines_are_said_in_one(run, caplog):
    run.metrics.write_bytes(b"noise\n" * 9)
    assert run.read_metrics() == []
    assert caplog.messages == [f"{run.metrics}: left out lines 1, 2, 3, 4, 5 and 4 more, not a step with its numbers"]


def test_an_empty_run_has_neither(tmp_path):
    run = RunFolder(tmp_path / "none")
    assert run.checkpoints() == {} and run.sample_grids() == {} and run.last_sample_grid() is None
    assert run.read_metrics() == []
    assert not run.path.exists()


def test_a_model_is_of_the_run_that_it_lies_in(run, monkeypatch):
    assert RunFolder.of(run.pipeline) == RunFolder.of(run.checkpoint(200)) == run
    monkeypatch.chdir(run.pipeline)
    assert RunFolder.of(".") == RunFolder.of("../pipeline") == RunFolder.of("../checkpoints/step-00000200") == run
    monkeypatch.chdir(run.path.parent)
    assert RunFolder.of(Path("run/pipeline")) == RunFolder("run"), "a relative path stays one"


def test_a_model_elsewhere_is_of_no_run(run, tmp_path):
    for model in ("owner/name", tmp_path, run.path, tmp_path / "missing"):
        assert RunFolder.of(model) is None, model


def test_options_are_read_and_a_damaged_file_is_named(run):
    assert run.read_options() == {"seed": 3, "data": {"source": "digits"}}
    aliases = b"a: &a [x]\nb: &b [" + b"*a, " * 1000 + b"]\nc: [" + b"*b, " * 1000 + b"]"
    for damaged in (b"- 1\n", b"a: [", b"\xff\xfe\xfa", aliases, b"seed: 1\nseed: 2", b"[" * 5000):
        run.config.write_bytes(damaged)
        with pytest.raises(ValueError, match="config.yaml is damaged"):
            run.read_options()
    Path(run.config).unlink()
    with pytest.raises(OSError):
        run.read_options()


def test_how_grids_were_sampled_is_read_and_a_damaged_file_is_named(run):
    assert run.read_grid_settings() is None, "as in a run of an earlier version"
    settings = GridSettings(
        columns=8,
        class_labels=[None],
        class_names=None,
        seed=3,
        scheduler=None,
        num_inference_steps=None,
        guidance_scale=None,
    )
    run.grid_settings.write_text(settings.to_json())
    assert run.read_grid_settings() == settings
    for damaged in (b"{", b"[]", b"{}", b"1", b"\xff", b"[" * 100_000):
        run.grid_settings.write_bytes(damaged)
        with pytest.raises(ValueError, match="grid.json is damaged"):
            run.read_grid_settings()


@pytest.mark.parametrize(
    ("name", "state", "fault"),
    [
        ("step-00000004", '{"step": 4}', None),
        ("step-4", '{"step": 4}', None),
        ("best", '{"step": 4}', None),
        ("step-00000006", None, None),
        ("step-00000006", '{"step": 4}', "its name is not that of its state, which is of step 4"),
        ("step-00000004", '{"step": true}', "which is of step True"),
        ("step-00000004", '{"step": 4.0}', "which is of step 4.0"),
        ("step-00000004", "[4]", "training/state.json is not the state of a run"),
        ("step-00000004", "{}", "training/state.json is not the state of a run"),
    ],
)
def test_a_checkpoint_that_was_renamed_is_found(tmp_path, name, state, fault):
    (tmp_path / name / "training").mkdir(parents=True)
    if state is not None:
        (tmp_path / name / STATE).write_text(state)
    found = find_name_fault(tmp_path / name)
    assert found == fault if fault is None else found.endswith(fault)
