"""Which files of a folder are published: those of the pipeline and beside it, never what is hidden or lies elsewhere."""

import os
import shutil

import pytest

from hf_ddpm.hub.contents import check_tokens, pipeline_files

FILES = {
    "editing_pipeline.py",
    "model_index.json",
    "pipeline.py",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def folder(make_run):
    return make_run({0: "cat", 1: "dog"}, 2)


@pytest.fixture
def private(tmp_path):
    (tmp_path / "private" / "keys").mkdir(parents=True)
    for name in ("private/id_rsa", "private/keys/config.json"):
        (tmp_path / name).write_text("secret", encoding="utf-8")
    return tmp_path / "private"


def add(folder, *names, text="{}"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_what_belongs_to_a_pipeline_and_lies_beside_it_is_published(folder):
    own = {"README.md", "samples.png", ".eval_results/eval.yaml", "LICENSE", "cats.jpg", "labels.json", "use.py"}
    add(folder, *own)
    assert set(pipeline_files(folder)) == FILES | own


def test_everything_else_stays_and_is_named(folder, caplog):
    visible = [
        "training/state.json",
        "manifest.json",
        "config.yaml",
        "environment.json",
        "data.json",
        "notes.txt",
        "images/a.png",
        "unet/a.bin",
    ]
    hidden = [".env", ".git/config", ".cache/token.json", "unet/.hidden.json", ".eval_results/.token.yaml", ".gitattributes"]
    add(folder, *visible, *hidden)
    caplog.set_level("INFO")
    assert set(pipeline_files(folder)) == FILES
    listed = "config.yaml, data.json, environment.json, images, manifest.json, notes.txt, training, unet/a.bin"
    assert caplog.messages == [f"not published from {folder}: {listed}"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("notes.md", "private/id_rsa"),
        ("README.md", "private/id_rsa"),
        ("samples.png", "private/id_rsa"),
        ("unet/more.json", "private/keys/config.json"),
        ("unet/more.json", "run/pipeline/../../private/keys/config.json"),
        (".eval_results", "private/keys"),
        (".eval_results/a.yaml", "private/id_rsa"),
        ("keys.json", "private/keys"),
        ("notes.md", "run/pipeline/.env"),
        ("notes.md", "run/config.yaml"),
    ],
)
def test_a_link_to_what_may_be_private_is_refused(folder, private, name, target):
    add(folder, ".env")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(folder.parents[1] / target)
    with pytest.raises(ValueError, match=rf"--model is .*: {name} is a link to .*, which may be private: put a copy"):
        pipeline_files(folder)


def test_a_component_elsewhere_is_refused_and_one_in_the_folder_published(folder, tmp_path):
    shutil.move(folder / "unet", tmp_path / "unet")
    (folder / "unet").symlink_to(tmp_path / "unet")
    with pytest.raises(ValueError, match="unet is a link to .*, which may be private"):
        pipeline_files(folder)
    (folder / "unet").unlink()
    shutil.move(tmp_path / "unet", folder / "averaged")
    (folder / "unet").symlink_to("averaged")
    assert set(pipeline_files(folder)) == FILES


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "newest").symlink_to(folder)
    (folder / "again.json").symlink_to("model_index.json")
    assert set(pipeline_files(tmp_path / "newest")) == {*FILES, "again.json"}


def test_the_cache_of_the_hub_consists_of_links_to_blobs(folder, tmp_path, private):
    cached = tmp_path / "hub" / "models--ada--pets"
    snapshot = cached / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    (cached / "blobs").mkdir()
    for number, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        blob = cached / "blobs" / str(number)
        shutil.move(path, blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    assert set(pipeline_files(snapshot)) == FILES
    (snapshot / "notes.md").symlink_to(private / "id_rsa")
    with pytest.raises(ValueError, match="which may be private"):
        pipeline_files(snapshot)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path), lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("name", ["notes.md", "unet/diffusion_pytorch_model-00001-of-00001.safetensors"])
def test_what_is_not_a_file_is_refused_without_opening_it(folder, name, make):
    make(folder / name)
    with pytest.raises(ValueError, match=f"{name} is not a file, remove it"):
        pipeline_files(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.rename(weights.with_suffix(".bin")), "the weights in unet/ are not safetensors"),
        (lambda weights: weights.unlink(), "the weights in unet/ are missing"),
        (lambda weights: shutil.rmtree(weights.parent), "the weights in unet/ are missing"),
        (lambda weights: os.truncate(weights, weights.stat().st_size - 1), "is damaged"),
    ],
)
def test_a_pipeline_without_whole_weights_is_refused(folder, change, said):
    change(folder / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=said):
        pipeline_files(folder)


def test_a_pipeline_without_the_code_that_it_names_is_refused(folder):
    (folder / "pipeline.py").unlink()
    with pytest.raises(ValueError, match="the pipeline's code, pipeline.py, is missing: .*save_pretrained"):
        pipeline_files(folder)


def test_a_text_with_an_access_token_is_refused(folder):
    token = "hf_" + "aB3" * 12
    check_tokens(folder, {"README.md": b"hf_ddpm, and hf_short", "weights.safetensors": token.encode()})
    with pytest.raises(ValueError, match=r"README\.md contains an access token of the Hub, remove it") as raised:
        check_tokens(folder, {"README.md": f"token: {token}".encode()})
    assert token not in str(raised.value)
    add(folder, "use.py", text=f"login('{token}')")
    with pytest.raises(ValueError, match=r"use\.py contains an access token"):
        check_tokens(folder, pipeline_files(folder))
