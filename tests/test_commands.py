"""The command hf-ddpm: its table, how texts name commands, recipes by name, and an installation without a checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from hf_ddpm.__main__ import main
from hf_ddpm.cli import load_recipe, parse_config, recipe_program
from hf_ddpm.commandline.commands import COMMANDS, as_typed, command_name, read_start, shell_command, typed_name
from hf_ddpm.commandline.recipes import named_recipes
from hf_ddpm.experiments.options import SweepConfig, SweepGrid
from hf_ddpm.training.options import TrainConfig

ROOT = Path(__file__).parents[1]
SCRIPT = '''"""`hf-ddpm {name}` from a checkout, also for launchers; the program is hf_ddpm/programs/{program}.py."""

import sys

from hf_ddpm.programs.{program} import main

if __name__ == "__main__":
    sys.exit(main())
'''
WAYS = {
    "hf-ddpm": ["/venv/bin/hf-ddpm", "train"],
    "windows": ["hf-ddpm.exe", "train"],
    "module": ["/site-packages/hf_ddpm/__main__.py", "train"],
    "script": ["../code/train_scripts/train.py"],
    "python": ["/notebooks/mine.py"],
}


def test_each_command_has_a_program_and_a_script():
    programs = {command.program for command in COMMANDS.values()}
    assert programs == {path.stem for path in (ROOT / "hf_ddpm" / "programs").glob("[!_]*.py")}
    assert programs == {path.stem for path in (ROOT / "train_scripts").glob("*.py")}
    for name, command in COMMANDS.items():
        script = ROOT / "train_scripts" / f"{command.program}.py"
        assert script.read_text(encoding="utf-8") == SCRIPT.format(name=name, program=command.program)


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_the_commands_are_listed_on_one_screen(args, capsys):
    assert main(args) is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)


def test_a_command_may_be_typed_like_its_program():
    assert [command_name(name) for name in ("tune_guidance", "write_card", "sample", "x_y")] == [
        "tune-guidance", "write-card", "sample", "x_y",
    ]  # fmt: skip
    assert read_start(["/venv/bin/hf-ddpm", "tune_guidance", "--model=a"]).command("sample") == "hf-ddpm sample"
    assert read_start(["hf-ddpm", "tune_guidance"]).name == "tune-guidance"


def test_help_of_a_command_may_be_asked_for_in_both_orders(capsys):
    pages = []
    for args in (["--help", "push"], ["push", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1] and pages[0].startswith("Publish a saved pipeline")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smaple", "did you mean sample?"),
        ("train_gan", "did you mean gan?"),
        ("train_scripts/push_to_hub.py", "did you mean push?"),
        ("xyz", "give one of train, distill, gan, judge, sample"),
        ("--config", "give one of train, distill, gan, judge, sample"),
    ],
)
def test_an_unknown_command_is_one_line(name, hint, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/hf-ddpm", name])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"hf-ddpm: unknown command {name!r}: {hint}")


# How a command is named


@pytest.mark.parametrize(
    ("way", "name", "typed", "launched"),
    [
        ("hf-ddpm", "hf-ddpm train", "hf-ddpm gan", "-m hf_ddpm gan"),
        ("windows", "hf-ddpm train", "hf-ddpm gan", "-m hf_ddpm gan"),
        ("module", "python -m hf_ddpm train", "python -m hf_ddpm gan", "-m hf_ddpm gan"),
        ("script", "train.py", "python train_scripts/train_gan.py", "train_scripts/train_gan.py"),
        ("python", "mine.py", "hf-ddpm gan", "-m hf_ddpm gan"),
    ],
)
def test_texts_name_commands_as_the_user_types_them(monkeypatch, way, name, typed, launched):
    monkeypatch.setattr(sys, "argv", [*WAYS[way], "--config", "digits"])
    assert typed_name() == name
    assert as_typed("run hf-ddpm gan --seed 3 or torchrun -m hf_ddpm gan") == f"run {typed} --seed 3 or torchrun {launched}"
    assert as_typed("hf-ddpm and hf-ddpm ganache") == "hf-ddpm and hf-ddpm ganache"


@pytest.mark.parametrize(
    ("way", "alone", "in_two"),
    [
        ("hf-ddpm", "hf-ddpm train --x 'a b'", "torchrun --nproc_per_node 2 -m hf_ddpm train --x 'a b'"),
        ("module", "python -m hf_ddpm train --x 'a b'", "torchrun --nproc_per_node 2 -m hf_ddpm train --x 'a b'"),
        (
            "script",
            "python ../code/train_scripts/train.py --x 'a b'",
            "torchrun --nproc_per_node 2 ../code/train_scripts/train.py --x 'a b'",
        ),
        ("python", "python /notebooks/mine.py --x 'a b'", "torchrun --nproc_per_node 2 /notebooks/mine.py --x 'a b'"),
    ],
)
def test_a_recorded_command_can_be_repeated(way, alone, in_two):
    assert shell_command([*WAYS[way], "--x", "a b"], 1) == alone
    assert shell_command([*WAYS[way], "--x", "a b"], 2) == in_two


@pytest.mark.parametrize("argv", [[], [""], ["-c"], ["/code/train.py"], ["/code/train_scripts/other.py"], ["__main__.py"]])
def test_other_programs_are_not_taken_for_a_command(argv):
    assert read_start(argv) is None


# Recipes by name


def test_a_recipe_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # a folder is no recipe
    config = parse_config(TrainConfig, ["--config", "digits", "--output_dir=a"])
    assert config == parse_config(TrainConfig, ["--config", str(named_recipes()["digits"]), "--output_dir=a"])
    assert recipe_program("gan_digits") == "train_gan"


def test_a_file_comes_before_a_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("seed: 77\n")
    assert load_recipe("digits") == {"seed": 77}


def test_a_recipe_may_extend_one_of_the_package_or_a_file_beside_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: digits\nseed: 77\n")
    assert load_recipe(tmp_path / "mine.yaml") == {**load_recipe("digits"), "seed": 77}
    (tmp_path / "digits").write_text("max_train_steps: 5\n")
    assert load_recipe(tmp_path / "mine.yaml") == {"max_train_steps": 5, "seed": 77}


@pytest.mark.parametrize(
    ("recipe", "hint"),
    [
        ("digitz", "did you mean digits?"),
        ("train_scripts/recipes/digits.yaml", "did you mean digits?"),
        ("xyz", "give the path of a recipe, or a name that hf-ddpm recipes lists"),
    ],
)
def test_an_unknown_recipe_is_one_line_with_the_nearest(refusal_of, tmp_path, monkeypatch, recipe, hint):
    monkeypatch.chdir(tmp_path)
    message = refusal_of(TrainConfig, "--config", recipe, "--output_dir=a")
    assert f"--config {recipe}: No such file or directory, {hint}" in message
    (tmp_path / "mine.yaml").write_text(f"extends: {recipe}\n")
    assert hint in refusal_of(TrainConfig, "--config", "mine.yaml", "--output_dir=a")


def test_a_sweep_trains_recipes_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = SweepConfig(features="inception", output_dir="out", grid=SweepGrid(recipe=["digits", "gan_digits"]))
    names = {run.name: training.max_train_steps for run, training in config.trainings().items()}
    assert names == {f"{name}-seed-0": load_recipe(name)["max_train_steps"] for name in ("digits", "gan_digits")}
    with pytest.raises(ValueError, match=r"--grid\.recipe is '?digitz'?: the file does not exist, did you mean digits"):
        SweepConfig(features="inception", output_dir="out", grid=SweepGrid(recipe=["digitz"]))


def test_the_recipes_are_listed(capsys):
    main(["recipes"])
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _, _ in lines] == sorted(named_recipes())
    assert ["gan_digits", "gan"] in [line[:2] for line in lines] and all(text for _, _, text in lines)


# Installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What a wheel installs, built from a source distribution as an installation from one does."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    for name in ("hf_ddpm", "train_scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)

    def build(kind: str, place: Path) -> Path:
        program = f"from setuptools.build_meta import build_{kind}; build_{kind}({str(folder)!r})"
        done = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return next(folder.glob("*.tar.gz" if kind == "sdist" else "*.whl"))

    with tarfile.open(build("sdist", source)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked)) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


def test_a_wheel_holds_the_package_and_its_recipes_alone(installed):
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    wanted = [
        path for path in (ROOT / "hf_ddpm").rglob("*") if path.suffix in (".css", ".html", ".j2", ".js", ".py", ".typed")
    ]
    expected = {path.relative_to(ROOT).as_posix() for path in wanted} | {"hf_ddpm/recipes/README.md"}
    expected |= {f"hf_ddpm/recipes/{path.name}" for path in (ROOT / "train_scripts" / "recipes").glob("*.yaml")}
    assert {name for name in found if ".dist-info/" not in name} == expected
    (entries,) = installed.glob("*.dist-info/entry_points.txt")
    assert entries.read_text(encoding="utf-8").split() == ["[console_scripts]", "hf-ddpm", "=", "hf_ddpm.__main__:main"]


def run_installed(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {
        "PYTHONPATH": str(installed),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def test_help_and_mistakes_of_an_installed_command_import_nothing_heavy(installed, tmp_path):
    program = (
        "import sys, hf_ddpm; from hf_ddpm.__main__ import main\n"
        "a = ['train', '--config', 'digits', '--output_dir=a']\n"
        "for words in (['--help'], ['trian'], ['recipes'], ['train', '--help'], [*a, '--sed=3'], [*a, '--print_config']):\n"
        "    sys.argv = ['hf-ddpm', *words]\n"
        "    try: main()\n"
        "    except SystemExit as stopped: print('code', stopped.code)\n"
        "print(hf_ddpm.__file__, [name for name in ('torch', 'datasets', 'diffusers') if name in sys.modules])"
    )
    done = run_installed(installed, tmp_path, "-c", program)
    assert done.stderr.splitlines() == [
        "hf-ddpm: unknown command 'trian': did you mean train?",
        "hf-ddpm train: unknown option --sed, did you mean --seed?",
    ]
    assert "\n\nhf-ddpm train --config digits --output_dir runs/digits\nhf-ddpm train --config runs/" in done.stdout
    assert done.stdout.endswith(f"{installed / 'hf_ddpm' / '__init__.py'} []\n") and not list(tmp_path.iterdir())


def test_an_installed_command_trains_and_samples_in_an_empty_folder(installed, tmp_path, tiny_options):
    train = ["train", "--config", "digits", "--output_dir", "runs/digits", *tiny_options, "--max_train_steps=1"]
    sample = ["sample", "--model", "runs/digits/pipeline", "--num_images=2", "--num_inference_steps=1", "--output_dir=new"]
    program = (
        "import json, sys; from hf_ddpm.__main__ import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['/venv/bin/hf-ddpm', *words]\n"
        "    main()\n"
    )
    done = run_installed(installed, tmp_path, "-c", program, json.dumps([train, sample]))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "new").glob("*.png"))) == 2
    card = (tmp_path / "runs" / "digits" / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "\nhf-ddpm train --config digits --output_dir" in card
    assert "\nhf-ddpm train --config recipe.yaml --output_dir runs/again\n" in card
    environment = json.loads((tmp_path / "runs" / "digits" / "environment.json").read_text(encoding="utf-8"))
    assert environment["command"][1:4] == ["train", "--config", "digits"]
    config = yaml.safe_load((tmp_path / "runs" / "digits" / "config.yaml").read_text(encoding="utf-8"))
    assert config["max_train_steps"] == 1
