"""The doctor names what is wrong with a run, and nothing with a good one: files of runs, without training."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from hf_ddpm.cli import dump_config, parse_config
from hf_ddpm.doctor.examine import examine
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.training.options import GANConfig, JudgeConfig


def names(run: RunFolder) -> list[str]:
    return [finding.name for finding in examine(run).findings]


def test_nothing_is_said_about_a_good_run(write_run, good_losses):
    assert names(write_run(good_losses, {500: 0.265, 1000: 0.241})) == []


def test_a_step_that_was_not_finite(write_run, good_losses):
    run = write_run(good_losses, steps=400, total_steps=1000, optim={"max_grad_norm": None, "learning_rate": 0.5})
    run.diverged(412).write_text(json.dumps({"step": 412, "loss": "nan", "grad_norm": "inf"}), encoding="utf-8")
    (finding,) = examine(run).findings
    assert finding.name == "diverged"
    assert "step 412" in finding.seen and "nan" in finding.seen and "0.5" in finding.seen
    assert "--optim.learning_rate 0.001 --optim.max_grad_norm 1" in finding.remedy
    assert "--resume auto" in finding.remedy


def test_a_run_that_has_passed_the_step_since_has_not_diverged(write_run, good_losses):
    run = write_run(good_losses, {1000: 0.241})
    run.diverged(412).write_text(json.dumps({"step": 412, "loss": "nan", "grad_norm": "inf"}), encoding="utf-8")
    assert names(run) == []


def test_a_loss_that_stands_still_near_that_of_a_constant(write_run):
    run = write_run([1.1, 0.9, 0.75, *[0.7] * 17], optim={"learning_rate": 1.0})
    (finding,) = examine(run).findings
    assert finding.name == "learning rate too high"
    assert "--optim.learning_rate 0.001" in finding.remedy


def test_a_late_rise_of_a_loss_near_that_of_a_constant(write_run):
    losses = [0.9, 1.0, 1.9, 9.2, 0.75, 0.7, 0.7, 0.69, 35.0, 0.9, 0.77, 0.74, 0.72, 0.7, 0.69, 0.69, 0.69, 0.69, 0.69, 0.68]
    assert names(write_run(losses, optim={"learning_rate": 1.0})) == ["learning rate too high"]


def test_a_rise_that_the_run_has_not_made_good(write_run):
    assert names(write_run([1.0, 0.3, 0.1, 0.8, *[0.4] * 16])) == ["learning rate too high"]


def test_a_rise_that_the_run_has_made_good(write_run, good_losses):
    assert names(write_run([0.5, 0.3, 2.0, *good_losses[3:]])) == []


def test_noisy_lines_are_no_rise(write_run):
    assert names(write_run([0.05 * (1 + 9 * (number % 2)) for number in range(1000)])) == []


def test_a_learning_rate_that_does_nothing(write_run):
    assert names(write_run([1.0] * 20, optim={"learning_rate": 1e-7})) == ["learning rate too low"]


@pytest.mark.parametrize("objective", [{"prediction_type": "sample"}, {"loss_weighting": "vlb"}])
def test_a_loss_of_unknown_scale_may_stand_still(write_run, objective):
    assert names(write_run([1.1, 0.9, *[0.7] * 18], objective=objective)) == []


def test_a_loss_that_still_falls(write_run):
    run = write_run([0.93, 0.77, 0.65, 0.59, 0.55, 0.51, 0.49, 0.46, 0.45, 0.42], steps=100)
    (finding,) = examine(run).findings
    assert finding.name == "not converged"
    assert "by 24%" in finding.seen
    assert "8 x as long" in finding.remedy and "--max_train_steps 800" in finding.remedy


def test_a_run_that_was_stopped(write_run, good_losses):
    (finding,) = examine(write_run(good_losses, steps=400, total_steps=1000)).findings
    assert finding.name == "unfinished"
    assert "400 of 1,000" in finding.seen and finding.remedy.endswith("--resume auto")


def test_a_run_that_is_trained_now_is_not_unfinished(write_run, good_losses):
    run = write_run(good_losses, steps=400, total_steps=1000)
    with OutputLock(run.path) as lock:
        lock.take()
        examination = examine(run)
    assert examination.findings == [] and "being trained now" in examination.subject
    assert "convergence" in [gap.name for gap in examination.gaps]


def test_a_held_out_loss_that_grows(write_run):
    losses = [0.56, 0.4, 0.33, 0.3, 0.27, 0.25, 0.2, 0.15, 0.11, 0.09]
    run = write_run(losses, {250: 0.39, 500: 0.5, 1000: 0.7})
    run.checkpoint(250).mkdir(parents=True)
    (finding,) = examine(run).findings
    assert finding.name == "overfitting"
    assert "7.0 x" in finding.seen and "step 250" in finding.seen
    assert str(run.checkpoint(250)) in finding.remedy


def test_losses_with_other_weights_are_not_compared(write_run, good_losses):
    assert names(write_run(good_losses, {1000: 0.9}, objective={"loss_weighting": "min_snr", "snr_gamma": 5.0})) == []


def test_few_images(write_run, good_losses):
    assert names(write_run(good_losses, {1000: 0.26}, num_images=200)) == ["data too small"]


def test_a_moving_average_that_holds_the_start(write_run, good_losses):
    run = write_run(good_losses, {1000: 0.83}, ema={"decay": 0.9999, "power": 2.0})
    (finding,) = examine(run).findings
    assert finding.name == "averaged weights lag"
    assert "91% of the averaged weights" in finding.seen and "0.83" in finding.seen


def test_classes_that_are_always_dropped(write_run, good_losses):
    # The held-out loss is taken with the classes, which the network has never seen.
    assert names(write_run(good_losses, {1000: 0.31}, objective={"class_dropout_prob": 1.0})) == ["classes ignored"]


def test_the_average_of_the_first_steps_lags_in_any_case(write_run):
    assert names(write_run([0.4 - 0.01 * number for number in range(10)], {50: 0.9}, steps=50)) == []


def test_samples_without_their_class(write_run, good_losses, results_of):
    run = write_run(good_losses)
    results_of(run, class_accuracy=0.52, floor={"class_accuracy": 0.99})
    assert names(run) == ["classes ignored"]
    results_of(run, class_accuracy=0.52, floor={"class_accuracy": 0.4})  # a judge that cannot read real images either
    assert names(run) == []


def test_copies_in_a_measurement(write_run, good_losses, results_of):
    run = write_run(good_losses)
    results_of(run, nearest_train_distance=0.05, floor={"nearest_train_distance": 0.13})
    (finding,) = examine(run).findings
    assert finding.name == "overfitting" and "0.38 x" in finding.seen
    results_of(run, nearest_train_distance=0.12, floor={"nearest_train_distance": 0.13})
    assert names(run) == []


def test_a_measurement_with_few_steps(write_run, good_losses, results_of):
    run = write_run(good_losses)
    results_of(run, fd_judge=9.0, floor={}, protocol={"scheduler": "DDPMScheduler", "num_inference_steps": 3})
    assert names(run) == ["too few denoising steps"]
    results_of(run, fd_judge=9.0, floor={}, protocol={"scheduler": "DDPMScheduler", "num_inference_steps": 50})
    assert names(run) == []


def test_a_saved_scheduler_of_another_training(write_run, good_losses):
    run = write_run(good_losses)
    folder = run.pipeline / "scheduler"
    folder.mkdir(parents=True)
    saved = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000, "prediction_type": "epsilon"}
    (folder / "scheduler_config.json").write_text(json.dumps(saved), encoding="utf-8")
    (finding,) = examine(run).findings
    assert finding.name == "scheduler does not fit"
    assert "prediction_type is epsilon and was v_prediction" in finding.seen


def test_what_cannot_be_told_is_said_with_the_option_that_lets_it(write_run):
    examination = examine(write_run([0.5] * 4, num_images=None, data={"test_split": None, "streaming": True}))
    gaps = {gap.name: gap.remedy for gap in examination.gaps}
    assert "--logging.every_steps" in gaps["learning rate and convergence"]
    assert "--data.test_split" in gaps["overfitting by the loss"]
    assert "size of the data" in gaps
    assert examination.findings == []


def test_a_gan_and_a_judge_are_examined_for_what_applies(write_run, load_script, capsys):
    options = ["--data.image_size=8", "--max_train_steps=1000", "--output_dir=runs/gan"]
    run = write_run([3.0] * 20, num_images=200, loss_name="d_loss", config=parse_config(GANConfig, options))
    examination = examine(run)
    assert [finding.name for finding in examination.findings] == ["data too small"]
    assert [gap.name for gap in examination.gaps] == ["copies"]
    assert "GAN, step 1,000 of 1,000" in examination.subject
    run.config.write_text(dump_config(parse_config(JudgeConfig, [*options, "--data.test_split=test"])), encoding="utf-8")
    examination = examine(run)
    assert (examination.findings, examination.gaps) == ([], []) and "judge" in examination.subject
    with pytest.raises(SystemExit) as stopped:
        load_script("doctor").main([str(run.path), "--samples"])
    assert stopped.value.code == 2 and "judge, which generates nothing" in capsys.readouterr().err


def test_an_unconditional_model_is_not_examined_for_classes(write_run, good_losses):
    run = write_run(good_losses, data={"class_conditional": False})
    described = json.loads(run.data.read_text(encoding="utf-8"))
    run.data.write_text(json.dumps({**described, "classes": None, "no_classes_because": "no labels"}), encoding="utf-8")
    assert names(run) == []


def test_epochs_count_as_the_length_of_a_run(write_run, good_losses):
    run = write_run(good_losses, num_images=3200, max_train_steps=None, num_train_epochs=20)
    assert names(run) == []  # 1,000 steps of 64 images
    run = replaced(run, num_train_epochs=21)
    assert names(run) == ["unfinished"]


def replaced(run: RunFolder, **options) -> RunFolder:
    run.config.write_text(yaml.safe_dump({**run.read_options(), **options}), encoding="utf-8")
    return run


def test_a_damaged_file_is_left_out(write_run, good_losses, caplog):
    run = write_run(good_losses)
    run.data.write_text("{", encoding="utf-8")
    run.diverged(5000).write_text("[", encoding="utf-8")
    assert names(run) == []
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["left out of this examination"] * 2


def test_a_folder_without_a_run_and_a_part_of_a_run_are_refused(write_run, good_losses, tmp_path):
    run = write_run(good_losses)
    run.pipeline.mkdir()
    with pytest.raises(ValueError, match=f"this is part of a run, give {run.path}"):
        examine(RunFolder(run.pipeline))
    with pytest.raises(ValueError, match="not the folder of a run"):
        examine(RunFolder(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        examine(RunFolder(tmp_path / "nothing"))
    run.config.write_text("optim: 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="optim is not a group"):
        examine(run)


def test_the_script_says_it_with_an_exit_code_and_without_torch(write_run, load_script, capsys):
    run = write_run([1.0, 0.3, 0.1, 0.8, *[0.4] * 16], {1000: 0.4})
    assert load_script("doctor").main([str(run.path)]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{run.path}: diffusion model, step 1,000 of 1,000")
    assert "\nlearning rate too high\n  seen:  " in printed and printed.endswith("1 finding\n")
    program = "import sys; sys.argv = ['doctor.py', sys.argv[1]]; import runpy\n"
    program += "try: runpy.run_path('train_scripts/doctor.py', run_name='__main__')\n"
    program += "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", program, str(run.path)], env=environment, capture_output=True, text=True)
    assert done.stdout.endswith("1 False\n"), done.stderr


def test_options_about_samples_need_samples(load_script, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_script("doctor").main([str(tmp_path), "--scheduler", "ddim"])
    assert stopped.value.code == 2
    assert "--scheduler is 'ddim': it is about samples, add --samples" in capsys.readouterr().err
