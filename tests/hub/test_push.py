"""Pushing to a local Hub: one commit, errors and retries, and loading what was pushed."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.hub.push import HubError, Patience, push_folder, push_space, try_push
from hf_ddpm.models.class_map_unet import ClassMapUNet
from hf_ddpm.pipeline import CFGDDPMPipeline

QUICK = Patience(timeout=20.0, tries=3, first_wait=0.01, longest_wait=2.0)
IMPATIENT = replace(QUICK, timeout=1.0, tries=2)
OWN_CARD = "---\nlibrary_name: diffusers\n---\n# Mine\n"
PIPELINE_FILES = {
    "README.md",
    "editing_pipeline.py",
    "model_index.json",
    "pipeline.py",
    "samples.png",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}


def test_a_push_is_one_commit_of_the_pipeline_and_its_card(hub, push, pipeline_dir):
    before = {path: path.read_bytes() for path in pipeline_dir.rglob("*") if path.is_file()}
    assert push(private=True) == f"{hub.address}/ada/pets"
    repository = hub.repositories["ada/pets"]
    assert repository.private
    assert repository.messages == ["Upload CFGDDPMPipeline"]
    assert set(repository.files) == PIPELINE_FILES
    assert (
        repository.files["unet/diffusion_pytorch_model.safetensors"]
        == (pipeline_dir / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    )
    assert 'CFGDDPMPipeline.from_pretrained("ada/pets")' in repository.files["README.md"].decode()
    assert {path: path.read_bytes() for path in pipeline_dir.rglob("*") if path.is_file()} == before

    (pipeline_dir / "README.md").write_text(OWN_CARD, encoding="utf-8")
    push(commit_message="My own card")
    assert repository.messages == ["Upload CFGDDPMPipeline", "My own card"]
    assert set(repository.commits[1]) == {"README.md"}
    push()
    assert len(repository.commits) == 2


def test_a_name_without_owner_is_completed(hub, push):
    assert push("pets") == f"{hub.address}/ada/pets"
    assert 'from_pretrained("ada/pets")' in hub.repositories["ada/pets"].files["README.md"].decode()


@pytest.mark.parametrize("place", ["/repos/create", "/validate-yaml", "/preupload/", "/commit/", "/whoami"])
def test_temporary_errors_are_retried(hub, push, place):
    hub.fail(place, 500, 429)
    push("pets")
    assert len(hub.repositories["ada/pets"].commits) == 1
    assert set(hub.repositories["ada/pets"].files) == PIPELINE_FILES


@pytest.mark.parametrize("place", ["/repos/create", "/preupload/", "/commit/"])
def test_a_request_without_an_answer_is_repeated(hub, push, place):
    hub.fail(place, "hang")
    push(patience=IMPATIENT)
    assert len(hub.repositories["ada/pets"].commits) == 1


def test_a_push_of_nothing_new_does_not_hang_either(hub, push):
    push()
    hub.fail("/revision/main", "hang")  # what the client asks for when there is nothing to commit
    push(patience=IMPATIENT)
    assert len(hub.repositories["ada/pets"].commits) == 1
    assert [path for _, path in hub.requests].count("/api/models/ada/pets/revision/main") == 2


def test_the_wait_is_as_long_as_the_hub_requests(hub, push):
    hub.fail("/commit/", 429, headers={"Retry-After": "1"})
    started = time.perf_counter()
    push()
    assert 1 <= time.perf_counter() - started < 5
    hub.fail("/preupload/", 429, headers={"Retry-After": "3600"})
    started = time.perf_counter()
    with pytest.raises(HubError, match="answered 429 and asks to wait 3600 seconds"):
        push("ada/other")
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(("place", "answer"), [("/repos/create", 500), ("/commit/", 502), ("/preupload/", "hang")])
def test_permanent_errors_end_with_the_command_to_try_again(hub, push, pipeline_dir, place, answer):
    hub.fail(place, *[answer] * 10)
    started = time.perf_counter()
    with pytest.raises(HubError) as raised:
        push(private=False, patience=IMPATIENT)
    # The client itself waits a second before it repeats an unanswered request.
    assert time.perf_counter() - started < 2 * (IMPATIENT.timeout + 1) + 5
    command = f"hf-ddpm push --model {pipeline_dir} --repo_id ada/pets --private false"
    assert str(raised.value).endswith(f"to try again: {command}")
    assert "2 times" in str(raised.value)
    assert len([path for _, path in hub.requests if place in path]) == 2
    assert not any(repository.commits for repository in hub.repositories.values())


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("place", ["/repos/create", "/commit/", "/whoami"])
def test_a_refusal_is_not_retried_and_shows_no_token(hub, push, capsys, status, place):
    # The client checks whether the repository exists when it may not create it.
    hub.fail(place, status)
    hub.fail("/api/models/", *[status] * (place == "/repos/create"))
    with pytest.raises(HubError, match="hf auth login") as raised:
        push("pets")
    assert len([path for _, path in hub.requests if place in path]) == 1
    assert hub.token not in str(raised.value) + capsys.readouterr().err
    assert "\n" not in str(raised.value)


def test_a_token_in_an_answer_is_not_repeated(hub, push):
    hub.fail("/commit/", 422)
    with pytest.raises(HubError, match="the request failed") as raised:
        push()
    assert hub.token not in str(raised.value)


def test_a_missing_token_is_reported(hub, pipeline_dir, api):
    with pytest.raises(HubError, match="not logged in, or the token is wrong"):
        push_folder(pipeline_dir, "ada/pets", api=HfApi(endpoint=hub.address, token=False), patience=QUICK)
    assert hub.repositories == {}


def test_a_metadata_error_of_a_card_is_reported(hub, push, pipeline_dir):
    (pipeline_dir / "README.md").write_text("---\nlibrary_name: abacus\n---\n", encoding="utf-8")
    with pytest.raises(HubError, match='the metadata of README.md are wrong \\("library_name" is not known'):
        push()
    assert hub.repositories == {}


def test_a_rendered_card_that_the_hub_refuses_does_not_hold_the_weights_back(hub, push, monkeypatch, caplog):
    monkeypatch.setattr("hf_ddpm.hub.card.TASK", "image-generation-2")
    push()
    assert set(hub.repositories["ada/pets"].files) == PIPELINE_FILES - {"README.md"}
    assert 'the Hub refuses it: "pipeline_tag" is not known' in caplog.text


def test_training_ends_well_whatever_the_hub_does(hub, api, pipeline_dir, caplog, capsys):
    options = {"api": api, "patience": QUICK}
    hub.fail("/commit/", *[502] * 3)
    assert try_push(pipeline_dir, "ada/pets", **options) is None
    (notice,) = caplog.messages
    assert notice.startswith("--repo_id is 'ada/pets': not pushed, the Hub answered 502, 3 times.")
    assert try_push(pipeline_dir, "no good name", **options) is None
    assert try_push(pipeline_dir, "ada/pets", **{**options, "api": HfApi(endpoint="http://127.0.0.1:1")}) is None
    assert "did not answer" in caplog.messages[-1]
    assert try_push(pipeline_dir, "ada/pets", **options) == f"{hub.address}/ada/pets"
    assert capsys.readouterr().out == f"pushed:   {hub.address}/ada/pets\n"


def test_an_address_where_no_hub_answers_json(hub, pipeline_dir, api):
    stray = HfApi(endpoint=f"{hub.address}/elsewhere", token=hub.token)
    with pytest.raises(HubError, match="the request failed"):
        push_folder(pipeline_dir, "ada/pets", api=stray, patience=QUICK)
    hub.refusals.clear()


@pytest.mark.parametrize("repo_id", ["a/b/c", "-x", "with space", "x" * 200, "../up"])
def test_an_invalid_name_is_refused_before_any_request(hub, push, repo_id):
    with pytest.raises(ValueError, match="--repo_id is "):
        push(repo_id)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("environment.json", "{", "environment.json is damaged"),
        (
            "config.yaml",
            "a: [",
            "no model card is rendered, .*config.yaml is damaged: .*: the model is published without one",
        ),
    ],
)
def test_a_card_that_fails_does_not_hold_the_weights_back(hub, push, pipeline_dir, caplog, path, content, said):
    (pipeline_dir.parent / path).write_text(content, encoding="utf-8")
    push()
    assert re.search(said, caplog.text)
    assert "unet/diffusion_pytorch_model.safetensors" in hub.repositories["ada/pets"].files
    assert ("README.md" in hub.repositories["ada/pets"].files) == (path != "config.yaml")


def test_a_gan_is_published_with_its_own_card_or_without(hub, push, pipeline_dir, tmp_path, caplog, api):
    gan = tmp_path / "gan"
    DCGANPipeline(DCGANGenerator(sample_size=8, channels=1, latent_dim=4, width=4)).save_pretrained(gan)
    push_folder(gan, "ada/gan", api=api)
    assert "there is no model card for a GAN, write its README.md yourself" in caplog.text
    assert "README.md" not in hub.repositories["ada/gan"].files
    (gan / "README.md").write_text(OWN_CARD, encoding="utf-8")
    push_folder(gan, "ada/gan", api=api)
    assert set(hub.repositories["ada/gan"].commits[1]) == {"README.md"}


def test_a_card_edited_on_the_hub_stays(hub, push, pipeline_dir, caplog):
    caplog.set_level("INFO")
    push()
    repository = hub.repositories["ada/pets"]
    edited = repository.files["README.md"].replace(b"# pets", b"# My pets")
    repository.files["README.md"] = edited
    (pipeline_dir.parent / "environment.json").unlink()
    push()
    assert repository.files["README.md"] == edited
    assert "the README.md of ada/pets was written or edited on the Hub and stays as it is" in caplog.text

    repository.files["README.md"] = b"---\nlicense: mit\n---\n"  # as the Hub makes it
    push()
    assert b"# pets" in repository.files["README.md"]
    repository.files["README.md"] = edited
    (pipeline_dir / "README.md").write_text(OWN_CARD, encoding="utf-8")
    push()
    assert repository.files["README.md"] == OWN_CARD.encode()


def test_the_script_refuses_in_one_line(load_script, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_script("push_to_hub").main(["--model", str(tmp_path), "--repo_id", "ada/pets"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


READ_BACK = """
import runpy, sys
import numpy as np, torch

script, folder, with_maps = sys.argv[1:]
sys.argv = [script, "--model", folder, "--repo_id", "pets", "--private", "true"]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    assert not end.code

from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from hf_ddpm import CFGDDPMPipeline
from hf_ddpm.hub.push import push_folder

push_folder(with_maps, "ada/maps")

def sample(pipeline):
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    options = {"guidance_scale": 2.0, "num_inference_steps": 3, "generator": generators, "output_type": "np"}
    return pipeline(class_labels=["cat", 1], **options).images

for repo, folder in {"ada/pets": folder, "ada/maps": with_maps}.items():
    local = sample(CFGDDPMPipeline.from_pretrained(folder))
    ours = CFGDDPMPipeline.from_pretrained(repo)
    generic = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    assert np.abs(sample(ours) - local).max() == 0 == np.abs(sample(generic) - local).max()
    card = ModelCard.load(repo)
    card.validate()
    assert "hf_ddpm" in card.data.tags
    print("read back", type(ours.unet).__module__.split(".")[-1], type(generic.unet).__module__.split(".")[0])
"""


def test_the_script_pushes_and_every_loader_reads_it_back(hub, pipeline_dir, tmp_path):
    hub.fail("/commit/", 500)
    script = Path(__file__).parents[2] / "train_scripts" / "push_to_hub.py"
    saved = CFGDDPMPipeline.from_pretrained(pipeline_dir)
    sizes = {name: saved.unet.config[name] for name in ("sample_size", "num_class_embeds", "block_out_channels")}
    levels = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "norm_num_groups": 2}
    network = ClassMapUNet(in_channels=1, out_channels=1, add_attention=False, **sizes, **levels)
    CFGDDPMPipeline(network, saved.scheduler, saved.id2label, saved.null_label).save_pretrained(tmp_path / "maps")
    done = subprocess.run(
        [sys.executable, "-c", READ_BACK, str(script), str(pipeline_dir), str(tmp_path / "maps")],
        env={**os.environ, **hub.environment(tmp_path / "hf_home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read_back = ["read back unet_2d diffusers", "read back class_map_unet diffusers_modules"]
    assert done.stdout.splitlines() == [f"{hub.address}/ada/pets", *read_back]
    assert hub.token not in done.stdout + done.stderr
    repository = hub.repositories["ada/pets"]
    assert len(repository.commits) == 1
    assert repository.private


def write_page(folder: Path) -> Path:
    (folder / "engine").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntitle: Pets\nsdk: static\n---\n# Pets\n", encoding="utf-8")
    (folder / "index.html").write_text("<h1>Pets</h1>", encoding="utf-8")
    (folder / "engine" / "code.wasm").write_bytes(b"\0asm")
    return folder


def test_a_page_becomes_a_static_space_in_one_commit(hub, api, tmp_path):
    folder = write_page(tmp_path / "site")
    hub.fail("/commit/", 500)
    assert push_space(folder, "pets", private=True, api=api, patience=QUICK) == f"{hub.address}/spaces/ada/pets"
    repository = hub.repositories["ada/pets"]
    assert (repository.kind, repository.sdk, repository.private) == ("space", "static", True)
    assert len(repository.commits) == 1
    assert set(repository.files) == {"README.md", "index.html", "engine/code.wasm"}


def test_a_page_that_is_not_pushed_comes_with_the_command_to_try_again(hub, api, tmp_path):
    folder = write_page(tmp_path / "site")
    hub.fail("/commit/", 403)
    with pytest.raises(HubError) as raised:
        push_space(folder, "ada/pets", api=api, patience=QUICK)
    assert str(raised.value).endswith(f"to try again: hf upload ada/pets {folder} . --repo-type space")
    (folder / "README.md").write_text("# Pets\n", encoding="utf-8")
    with pytest.raises(HubError, match="the metadata of README.md are wrong"):
        push_space(folder, "ada/others", api=api, patience=QUICK)
    assert "ada/others" not in hub.repositories
