"""What a model card says, what it leaves out, and that its snippets run."""

import dataclasses
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub import EvalResult, ModelCard, parse_eval_result_entries
from jinja2 import UndefinedError
from PIL import Image

from hf_ddpm.cli import parse_config
from hf_ddpm.data.description import ClassCount, DataDescription, LeftOut, Originals
from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.hub.card import NO_NAME, build_environment, card_files, files_to_publish, find_run, try_write_card, write_card
from hf_ddpm.hub.facts import LOCAL_SOURCE, read_pipeline, source_kind
from hf_ddpm.hub.seal import OLD_SEAL
from hf_ddpm.markdown import UNESCAPED_BAR
from hf_ddpm.run_folder import GridSettings, RunFolder
from hf_ddpm.training.options import TrainConfig

PETS = {0: "cat", 1: "great dane", 2: "cat"}
DIGITS_PAIR = {0: "zero", 1: "one"}
RESULT = {
    "metrics": {
        "accuracy": {"mean": 0.9375, "stderr": 0.0125, "n": 1000, "values": [0.93, 0.945]},
        "diverged": {"mean": float("nan"), "stderr": 0.0, "n": 10, "values": []},
    },
    "floor": {"accuracy": 0.1},
    "ceiling": {"accuracy": 0.99},
    "protocol": {"features": "judge:/home/ada/judge", "num_inference_steps": 50, "gpu": None},
}


def card_of(pipeline_dir: Path, run_dir: Path | None = None, repo_id: str | None = None) -> str:
    return card_files(pipeline_dir, run_dir, repo_id)["README.md"].decode()


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.*)$", card, re.MULTILINE)


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", card, re.MULTILINE | re.DOTALL)


def add_result(pipeline_dir: Path, name: str = "eval", result: dict = RESULT) -> None:
    folder = pipeline_dir.parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


def check_whole(card: str, tmp_path: Path) -> ModelCard:
    """Read a card back, and check what no card may contain."""
    for mark in ("TODO", "[More Information Needed]", "None", "nan", "{{", "{%", str(tmp_path), "/home/ada", "\n\n\n"):
        assert mark not in card
    loaded = ModelCard(card)
    assert ModelCard(str(loaded)).data.to_dict() == loaded.data.to_dict()
    assert loaded.data.library_name == "diffusers"
    assert loaded.data.license is None
    return loaded


def test_the_card_of_a_conditional_run_reports_its_files(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3)
    card = card_of(pipeline_dir, pipeline_dir.parent, "ada/pets")
    loaded = check_whole(card, tmp_path)
    assert loaded.data.pipeline_tag == "unconditional-image-generation"
    assert {"ddpm", "classifier-free-guidance", "class-conditional", "hf_ddpm"} <= set(loaded.data.tags)
    assert loaded.data.datasets is None
    assert headings(card) == ["Usage", "Classes", "Data", "Training", "Limitations", "Reproducing this model", "References"]
    assert "# pets\n" in card
    for said in (
        "8 x 8 grayscale images in 3 classes, trained for classifier-free guidance",
        "Number of images: 1,000 (`images_seen / epoch` in `metrics.jsonl`)",
        "| Batch | 40 images per step = 20 x 2 processes x 1 micro-steps |",
        "| Length | 300 steps, 12,000 images, 12 epochs | `metrics.jsonl` |",
        "0.25 at step 300",
        "| Held-out `test_loss` | 0.375 at step 300 | `metrics.jsonl` |",
        "| Hardware | A\\|B (R) Processor, 2 processes with 1 thread each |".replace("(R)", "\\(R\\)"),
        "torch 2.14.1",
        "![Samples](samples.png)\n\n*Samples from step 300 of the training run (`samples/step-00000300.png`).*",
        "torchrun --nproc_per_node 2 train_scripts/train.py '--data.source=my pictures' --output_dir run",
        "Classifier-Free Diffusion Guidance",
    ):
        assert said in card
    assert "DDPMPipeline.from_pretrained" not in card.replace("CFGDDPMPipeline", "")


LEARNED_FROM = DataDescription(
    source="./pets",
    train_split="train",
    num_train_images=1234,
    test_split=None,
    num_test_images=None,
    streaming=False,
    originals=Originals(smallest=(8, 9), largest=(640, 480), num_gray=4, num_colour=1230),
    image_size=8,
    channels=3,
    classes=[ClassCount(name, 411, None) for name in PETS.values()],
    no_classes_because=None,
    unused_label_columns=["<b>target|"],
    left_out=[LeftOut("files .HEIC", 2000, "format not read"), LeftOut("links", 1, "lead to *nowhere* | [x](http://y)")],
)


def test_the_card_says_what_the_run_learned_from(make_run, tmp_path, caplog):
    pipeline_dir = make_run(PETS, 3)
    RunFolder(pipeline_dir.parent).data.write_text(LEARNED_FROM.to_json())
    card = card_of(pipeline_dir, pipeline_dir.parent)
    check_whole(card, tmp_path)
    for said in (
        "| splits | split 'train', 1,234 images |",
        "from 8 x 9 to 640 x 480 pixels, trained at 8 x 8, RGB\\: 1,230 of 1,234 images have colour |",
        "| left out | files .HEIC\\: 2,000, format not read; links\\: 1, lead to \\*nowhere\\* \\| ",
        "Trained on 1,234 images",
    ):
        assert said in card
    assert "<b>" not in card and "](http://y" not in card and "images_seen / epoch" not in card
    RunFolder(pipeline_dir.parent).data.write_text("{")
    assert "images_seen / epoch" in card_of(pipeline_dir, pipeline_dir.parent), "the card is made without it"
    assert "data.json is damaged" in caplog.text


@pytest.mark.parametrize("log", [None, "", '{"step": 1, "loss": 0.5}\n'])
def test_the_number_of_images_is_known_without_a_log(make_run, tmp_path, log):
    pipeline_dir = make_run(PETS, 3)
    folder = RunFolder(pipeline_dir.parent)
    folder.data.write_text(dataclasses.replace(LEARNED_FROM, num_train_images=1234).to_json())
    folder.metrics.unlink()
    if log is not None:
        folder.metrics.write_text(log)
    card = card_of(pipeline_dir, pipeline_dir.parent)
    check_whole(card, tmp_path)
    assert "- Trained on 1,234 images; rare or unseen content" in card


def test_the_card_of_an_unconditional_run_mentions_no_classes_or_guidance(make_run, tmp_path):
    pipeline_dir = make_run()
    card = card_of(pipeline_dir, pipeline_dir.parent, "ada/blobs")
    loaded = check_whole(card, tmp_path)
    assert "Classes" not in headings(card)
    assert not {"classifier-free-guidance", "class-conditional"} & set(loaded.data.tags)
    assert "guidance_scale" not in card
    assert "class_labels" not in card


def test_a_pipeline_without_its_run_has_fewer_sections(make_run, tmp_path):
    card = card_of(make_run(PETS, 3))
    check_whole(card, tmp_path)
    assert headings(card) == ["Usage", "Classes", "Limitations", "References"]
    assert "# 8 x 8 class-conditional diffusion model\n" in card
    assert "samples.png" not in card
    assert NO_NAME in card


def test_other_pipelines_get_a_card_too(tmp_path):
    unet = UNet2DModel(sample_size=8, block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2, attention_head_dim=4,
                       down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "plain")
    card = card_of(tmp_path / "plain", repo_id="eve/plain")
    check_whole(card, tmp_path)
    assert 'DiffusionPipeline.from_pretrained("eve/plain")' in card
    assert "hf_ddpm" not in card[: card.rindex("<!--")]

    (tmp_path / "other").mkdir()
    index = {"_class_name": "OtherPipeline", "decoder": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "other" / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    card = card_of(tmp_path / "other")
    assert check_whole(card, tmp_path).data.pipeline_tag is None
    assert headings(card) == ["Usage", "Limitations"]


@pytest.mark.parametrize(
    ("names", "null_label", "is_old"), [(PETS, 3, False), (PETS, 3, True), (DIGITS_PAIR, None, False), (None, None, False)]
)
def test_every_snippet_runs(make_run, names, null_label, is_old):
    pipeline_dir = make_run(names, null_label)
    if is_old:  # the index of earlier versions does not name the code
        index = json.loads((pipeline_dir / "model_index.json").read_text())
        (pipeline_dir / "model_index.json").write_text(json.dumps(index | {"_class_name": "CFGDDPMPipeline"}))
    snippets = blocks(card_of(pipeline_dir, repo_id="ada/model"), "python")
    assert ("custom_pipeline" in "".join(snippets)) == is_old
    assert len(snippets) == (4 if names is None else 3)
    for snippet in snippets:
        program = re.sub(
            r"num_inference_steps=\d+", "num_inference_steps=2", snippet.replace("ada/model", str(pipeline_dir))
        )
        space: dict = {}
        exec(program, space)
        assert len(space["images"]) == 2


def test_the_snippets_name_the_variant_of_weights_that_have_no_other(make_run):
    pipeline_dir = make_run(PETS, 3)
    weights = pipeline_dir / "unet" / "diffusion_pytorch_model.safetensors"
    parameters = read_pipeline(pipeline_dir).parameters
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert read_pipeline(pipeline_dir).parameters == parameters
    first, second, third = blocks(card_of(pipeline_dir, repo_id="ada/model"), "python")
    assert all('from_pretrained("ada/model", variant="fp16"' in snippet for snippet in (first, third))
    assert 'load_pipeline("ada/model", variant="fp16", ' in second


def test_the_printed_recipe_is_read_by_the_training_script(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3, labels=["/odd", "b"], source="/home/ada/pictures")
    config = pipeline_dir.parent / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "model:\n  preset: digits8\n", encoding="utf-8")
    (recipe,) = blocks(card_of(pipeline_dir, pipeline_dir.parent), "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    config = parse_config(TrainConfig, ["--config", str(tmp_path / "recipe.yaml"), "--output_dir", "again"])
    assert config.max_train_steps == 300
    assert config.data.labels == ["/odd", "b"]
    assert config.data.source == LOCAL_SOURCE


def test_a_network_given_by_a_path_is_shown_by_its_last_part(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3)
    config = pipeline_dir.parent / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "model:\n  preset: /home/ada/networks/small\n", encoding="utf-8")
    card = card_of(pipeline_dir, pipeline_dir.parent)
    check_whole(card, tmp_path)
    assert "  preset: small\n" in card
    assert "preset `small`" in card


def test_a_section_is_left_out_when_its_file_is_missing(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3)
    run_dir = pipeline_dir.parent
    for name in ("environment.json", "metrics.jsonl", "samples/step-00000150.png", "samples/step-00000300.png"):
        (run_dir / name).unlink()
    files = card_files(pipeline_dir, run_dir)
    card = files["README.md"].decode()
    check_whole(card, tmp_path)
    assert set(files) == {"README.md"}
    for absent in ("samples.png", "| outcome |", "| machine |", "torchrun", "Number of images: ", "Trained on 1"):
        assert absent not in card


def test_results_come_with_metadata_that_reads_back(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3, source="ylecun/mnist")
    add_result(pipeline_dir)
    files = card_files(pipeline_dir, pipeline_dir.parent, "ada/mnist")
    card = files["README.md"].decode()
    loaded = check_whole(card, tmp_path)
    assert loaded.data.datasets == ["ylecun/mnist"]
    assert "| `accuracy` | 0.94 ± 0.01 | 1000 | 0.1 | 0.99 |" in card
    assert "- features: `judge:judge`" in card
    assert "was not measured; the losses" not in card
    (result,) = loaded.data.eval_results
    assert isinstance(result, EvalResult)
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("ylecun/mnist", "accuracy", 0.9375)
    assert result.metric_args == {"stderr": 0.0125, "n": 1000}
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/eval.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("ylecun/mnist", "accuracy", 0.9375)
    assert entry.notes == "features: judge:judge; num_inference_steps: 50"


def test_results_on_data_that_is_not_on_the_hub_stay_in_the_card(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3)
    add_result(pipeline_dir)
    files = card_files(pipeline_dir, pipeline_dir.parent, "ada/digits")
    assert check_whole(files["README.md"].decode(), tmp_path).data.eval_results[0].dataset_type == "digits"
    assert set(files) == {"README.md", "samples.png"}


@pytest.mark.parametrize(
    "name", ["a|b", "x\n---\ny: 1", "<img src=x onerror=alert(1)>", "```\n# Owned", '"\\', "{{ 7 * 7 }}", ""]
)
def test_hostile_names_break_neither_tables_nor_snippets(make_run, name):
    pipeline_dir = make_run({0: name, 1: "tame"}, 2, source=name or "digits", train_split=name)
    environment = {"processor": name, "commit": name, "packages": {name: name}, "command": ["train_scripts/train.py", name]}
    (pipeline_dir.parent / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    add_result(pipeline_dir, result={**RESULT, "protocol": {name: name}})
    card = card_of(pipeline_dir, pipeline_dir.parent, "ada/model")
    assert headings(card) == ["Usage", "Classes", "Data", "Training", "Evaluation", "Limitations", "Reproducing this model",
                              "References"]  # fmt: skip
    assert ModelCard(card).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert "<img" not in re.sub(r"(`+).*?\1", "", card, flags=re.DOTALL)
    rows = re.findall(r"^\| (?:[01]|Hardware|Versions|Code commit|`data.train_split`) \|.*$", card, re.MULTILINE)
    assert [len(re.findall(UNESCAPED_BAR, row)) for row in rows] == [3, 3, 3, 4, 4, 4][: 6 if name else 3]
    for snippet in blocks(card, "python"):
        compile(snippet, "snippet", "exec")
    assert not any("49" in row for row in rows)


def test_values_without_a_filter_are_escaped_and_unknown_names_refused():
    environment = build_environment()
    assert environment.from_string("{{ x }} {{ x | code }}").render(x="<b> *a* |") == r"&lt;b&gt; \*a\* \| `<b> *a* \|`"
    with pytest.raises(UndefinedError):
        environment.from_string("{{ y }}").render()


@pytest.mark.parametrize(
    ("source", "kind"),
    [("digits", "digits"), ("ylecun/mnist", "hub"), ("mnist", "hub"), ("./digits", "local"), ("/data/mnist", "local"),
     ("../data/mnist", "local"), ("~/mnist", "local"), ("a/b/c", "local"), ("data/mnist", "local"), ("a b", "local")],
)  # fmt: skip
def test_only_an_id_of_the_hub_counts_as_a_data_set(tmp_path, source, kind):
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    assert source_kind(source, tmp_path / "runs" / "a") == kind


def test_a_long_list_of_classes_is_cut(make_run):
    card = card_of(make_run({i: f"name{i}" for i in range(150)}, 150))
    assert "| 99 | name99 |" in card
    assert "name100" not in card
    assert "The first 100 of 150 classes; `model_index.json` lists all of them." in card


def test_writing_the_card_twice_gives_the_same_files(make_run):
    pipeline_dir = make_run(PETS, 3)
    write_card(pipeline_dir, pipeline_dir.parent)
    newest = (pipeline_dir.parent / "samples" / "step-00000300.png").read_bytes()
    assert (pipeline_dir / "samples.png").read_bytes() == newest
    before = (pipeline_dir / "README.md").read_bytes()
    write_card(pipeline_dir, pipeline_dir.parent)
    assert (pipeline_dir / "README.md").read_bytes() == before


def test_published_cards_are_rendered_again_but_keep_edits_by_hand(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3)
    write_card(pipeline_dir, pipeline_dir.parent)
    add_result(pipeline_dir)
    fresh = files_to_publish(pipeline_dir, "ada/pets")["README.md"].decode()
    assert "## Evaluation" in fresh
    assert NO_NAME not in fresh

    moved = tmp_path / "elsewhere"
    shutil.copytree(pipeline_dir, moved)
    alone = files_to_publish(moved, "ada/pets")["README.md"].decode()
    assert "## Training" in alone
    assert 'from_pretrained("ada/pets")' in alone
    assert NO_NAME not in alone

    (pipeline_dir / "README.md").write_text("# Mine\n", encoding="utf-8")
    assert files_to_publish(pipeline_dir, "ada/pets") == {}


def test_a_run_is_found_from_its_pipeline_folder_only(make_run):
    pipeline_dir = make_run()
    assert find_run(pipeline_dir) == pipeline_dir.parent
    (pipeline_dir.parent / "config.yaml").unlink()
    assert find_run(pipeline_dir) is None


def test_folders_that_are_not_pipelines_are_refused(make_run, tmp_path):
    pipeline_dir = make_run()
    with pytest.raises(ValueError, match=r"--model is .*: this is a run directory, give .*run/pipeline"):
        read_pipeline(pipeline_dir.parent)
    with pytest.raises(ValueError, match="give a saved pipeline, a folder with model_index.json"):
        read_pipeline(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("results/eval.json", b'{"metrics": 3}'),
        ("results/list.json", b"[1, 2]"),
        ("results/empty.json", b""),
        ("results/latin.json", b'{"name": "caf\xe9"}'),
        ("results/deep.json", b"[" * 100_000),
        ("environment.json", b"{"),
        ("environment.json", b'{"num_processes": "two"}'),
        ("environment.json", b'{"packages": ["torch"]}'),
        ("samples/step-00000300.png", b"not a picture"),
        ("samples/grid.json", b'{"columns": 8}'),
    ],
)
def test_what_is_damaged_in_a_run_is_left_out_and_named(make_run, caplog, tmp_path, path, content):
    pipeline_dir = make_run(PETS, 3)
    add_result(pipeline_dir, "good")
    (pipeline_dir.parent / path).write_bytes(content)
    card = card_of(pipeline_dir, pipeline_dir.parent)
    (warning,) = (message for message in caplog.messages if "metrics.jsonl" not in message)
    assert warning.startswith(f"left out of the model card: {pipeline_dir.parent / path}")
    assert "0.94 ± 0.01" in card
    assert ("samples.png" in card) == ("300.png" not in path)
    assert ("| machine |" in card) == (path != "environment.json")
    check_whole(card, tmp_path)


def test_what_is_not_a_file_is_never_opened(make_run, caplog):
    pipeline_dir = make_run(PETS, 3)
    results, samples = pipeline_dir.parent / "results", pipeline_dir.parent / "samples"
    (results / "folder.json").mkdir(parents=True)
    (results / "broken.json").symlink_to("nowhere")
    os.mkfifo(results / "pipe.json")  # opening it would block
    os.mkfifo(samples / "step-00000900.png")
    (results / ".eval.partial.json").write_text('{"seeds": {}}', encoding="utf-8")
    assert "samples.png" not in card_of(pipeline_dir, pipeline_dir.parent)
    assert sorted(re.findall(r"(\w+)\.\w+ is not a file", caplog.text)) == ["00000900", "broken", "folder", "pipe"]
    assert ".eval" not in caplog.text


def test_a_picture_outside_the_run_does_not_enter_the_card(make_run, tmp_path, caplog):
    pipeline_dir = make_run(PETS, 3)
    Image.new("L", (8, 8)).save(tmp_path / "private.png")
    (pipeline_dir.parent / "samples" / "step-00000900.png").symlink_to(tmp_path / "private.png")
    assert set(card_files(pipeline_dir, pipeline_dir.parent)) == {"README.md"}
    assert "is a link out of the run folder" in caplog.text


@pytest.mark.parametrize("content", ["a: [1", "[]"])
def test_a_card_that_fails_is_a_warning_with_the_command_to_write_it(make_run, caplog, content):
    pipeline_dir = make_run()
    (pipeline_dir.parent / "config.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.yaml is damaged"):
        write_card(pipeline_dir, pipeline_dir.parent)
    assert not try_write_card(pipeline_dir, pipeline_dir.parent)
    command = f"to try again: hf-ddpm write-card --model {pipeline_dir}"
    assert re.search(rf"config\.yaml is damaged: .*; {command}", caplog.text)


@pytest.mark.parametrize("blocker", ["README.md", ".eval_results"])
def test_a_card_that_cannot_be_written_is_a_warning_too(make_run, caplog, blocker):
    pipeline_dir = make_run(PETS, 3, source="ylecun/mnist")
    add_result(pipeline_dir)
    caplog.set_level("INFO")
    (pipeline_dir / blocker).symlink_to("/proc/self/nothing")  # nothing can be made there
    assert not try_write_card(pipeline_dir, pipeline_dir.parent)
    assert ("stays as it is" if blocker == "README.md" else "to try again: hf-ddpm write-card") in caplog.text


def test_the_script_writes_the_card_or_says_why_not(make_run, load_script, capsys):
    pipeline_dir = make_run(PETS, 3)
    main = load_script("write_card").main
    main(["--model", str(pipeline_dir)])
    assert "## Training" in (pipeline_dir / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"card: {pipeline_dir}/README.md\n"
    (pipeline_dir / "README.md").write_text("# Mine\n", encoding="utf-8")
    main(["--model", str(pipeline_dir)])
    assert "stays as it is" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(pipeline_dir / "unet")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


EDITS = {
    "nothing": lambda text: text,
    "ends of lines": lambda text: text.replace("\n", "\r\n") + "\n\n",
    "a word": lambda text: text.replace("DDPM", "model"),
    "a paragraph below": lambda text: text + "\nA paragraph.\n",
    "the metadata": lambda text: text.replace("tags:", "license: mit\ntags:"),
    "another digest": lambda text: re.sub("sha256 [0-9a-f]{64}", f"sha256 {'0' * 64}", text),
    "no last line": lambda text: text[: text.rindex("<!--")],
    "all of it": lambda text: "# Mine\n",
    "an earlier version": lambda text: re.sub(r"<!-- Rendered .* -->", f"<!-- {OLD_SEAL} -->", text),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_card_is_written_again_unless_somebody_has_changed_it(make_run, caplog, edit):
    pipeline_dir = make_run(PETS, 3)
    assert write_card(pipeline_dir, pipeline_dir.parent)
    readme = pipeline_dir / "README.md"
    edited = EDITS[edit](readme.read_text(encoding="utf-8")).encode()
    readme.write_bytes(edited)
    add_result(pipeline_dir)
    caplog.set_level("INFO")
    is_rendered = edit in ("nothing", "ends of lines", "an earlier version")
    assert write_card(pipeline_dir, pipeline_dir.parent) == is_rendered
    assert (readme.read_bytes() == edited) == (not is_rendered)
    assert (files_to_publish(pipeline_dir, "ada/pets") == {}) == (not is_rendered)
    kept = f"{readme} was written or edited by hand and stays as it is; remove it to get a rendered model card"
    assert [message for message in caplog.messages if "metrics.jsonl" not in message] == [kept] * (0 if is_rendered else 2)


def test_a_card_is_not_written_through_a_link(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3)
    write_card(pipeline_dir, pipeline_dir.parent)
    (pipeline_dir / "README.md").rename(tmp_path / "elsewhere.md")
    before = (tmp_path / "elsewhere.md").read_bytes()
    (pipeline_dir / "README.md").symlink_to(tmp_path / "elsewhere.md")
    (tmp_path / "mine.png").write_text("mine")
    (pipeline_dir / "samples.png").unlink()
    (pipeline_dir / "samples.png").symlink_to(tmp_path / "mine.png")
    add_result(pipeline_dir)
    assert write_card(pipeline_dir, pipeline_dir.parent)
    assert (tmp_path / "elsewhere.md").read_bytes() == before
    assert (tmp_path / "mine.png").read_text() == "mine"
    assert "## Evaluation" in (pipeline_dir / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model_index.json", '{"_class_name": "CFGDDPMPipeline", "../../etc": ["a", "b"]}'),
        ("model_index.json", '{"_class_name": "CFGDDPMPipeline", "id2label": ["a"]}'),
        ("unet/diffusion_pytorch_model.safetensors", "cut"),
    ],
)
def test_a_damaged_pipeline_is_refused_in_one_line(make_run, file, content):
    pipeline_dir = make_run(PETS, 3)
    (pipeline_dir / file).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        read_pipeline(pipeline_dir)


GRID = GridSettings(columns=8, class_labels=[0, 1, 2], class_names=["cat", "great dane", "cat"], seed=7, scheduler="heun",
                    num_inference_steps=9, guidance_scale=2.5)  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "grid", "said"),
    [
        (3, GRID, "not cherry-picked: one row per class, scheduler `heun`, 9 steps, guidance scale 2.5, seeds 7 to 30.*"),
        (4, GRID, "one row for each of the first 3 classes, scheduler `heun`, "),
        (0, replace(GRID, class_labels=[None] * 8, class_names=None, guidance_scale=None), "row by row, scheduler `heun`, "),
        (0, replace(GRID, class_labels=[None] * 8, class_names=None, guidance_scale=None), "no guidance, seeds 7 to 70.*"),
    ],
)
def test_the_caption_says_how_the_samples_were_made(make_run, tmp_path, classes, grid, said):
    names = {i: str(i) for i in range(classes)} or None
    pipeline_dir = make_run(names, classes or None)
    (pipeline_dir.parent / "samples" / "grid.json").write_text(grid.to_json(), encoding="utf-8")
    card = card_of(pipeline_dir, pipeline_dir.parent)
    check_whole(card, tmp_path)
    assert said in card
    assert f"![{8 * len(grid.class_labels)} samples](samples.png)" in card


def test_the_distance_to_training_images_is_reported(make_run, tmp_path):
    pipeline_dir = make_run(PETS, 3)
    near = {"mean": 0.1667, "stderr": 0.0002, "n": 1000, "values": [0.1667]}
    result = {
        "metrics": {"nearest_train_distance": near},
        "floor": {"nearest_train_distance": 0.151},
        "protocol": {"gpu": None},
    }
    assert "was not measured" in card_of(pipeline_dir, pipeline_dir.parent)
    add_result(pipeline_dir, "eval", result)
    card = card_of(pipeline_dir, pipeline_dir.parent)
    check_whole(card, tmp_path)
    assert "The distance to the nearest training image is 0.1667 for samples and 0.151 for test images (" in card
    assert (
        "Whether samples copy" not in card and "gpu" not in card[card.index("## Evaluation") : card.index("## Limitations")]
    )


def test_there_is_no_card_for_a_gan(tmp_path):
    DCGANPipeline(DCGANGenerator(sample_size=8, channels=1, latent_dim=4, width=4)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="write its README.md yourself"):
        card_files(tmp_path)
    assert files_to_publish(tmp_path, "ada/gan") == {}


def test_the_precision_that_was_chosen_is_shown(pipeline_dir):
    run_dir = pipeline_dir.parent
    for file, changes in (("config.yaml", {"mixed_precision": "auto"}), ("environment.json", {"mixed_precision": "fp32"})):
        text = yaml.safe_load((run_dir / file).read_text()) | changes
        (run_dir / file).write_text(json.dumps(text))
    assert "| Precision | `fp32`, chosen by `auto` | `environment.json` |" in card_of(pipeline_dir, run_dir)


@pytest.mark.parametrize("channels, names", [(4, ("a", "b")), (4, None), (1, None)])
def test_the_card_says_the_size_channels_and_values_and_its_snippets_run(tiny_pipeline, tmp_path, channels, names):
    values = {"pixel_type": "uint16", "value_range": (100, 4095)}
    pipeline = tiny_pipeline(names=names, sample_size=(8, 4), channels=channels, values=values)
    pipeline.save_pretrained(tmp_path / "bands")
    card = card_of(tmp_path / "bands", repo_id=None)
    check_whole(card, tmp_path)
    counted = "1 channel" if channels == 1 else "4 channels"
    assert f"| Images | 8 x 4 pixels, {counted}, uint16 values from 100 to 4095 | `unet/config.json`" in card
    assert ("`images` is an array (B, height, width, channels) of `uint16`" in card) == (channels == 4)
    snippets = blocks(card, "python")
    assert len(snippets) == (3 if names else 4)
    for snippet in snippets:
        known: dict = {}
        exec(snippet.replace(NO_NAME, str(tmp_path / "bands")), known)
        assert len(known["images"]) == 2
