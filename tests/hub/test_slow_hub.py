"""A Hub that answers byte by byte, or sends long texts or commands for a terminal: all ends in time, in one clean line."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from huggingface_hub import close_session, get_session, hf_hub_download

from hf_ddpm.hub.push import HubError, Patience, try_push
from hf_ddpm.runtime.hub_requests import HubTooSlow, bounded_requests

BRIEF = Patience(timeout=20.0, tries=3, first_wait=0.01, total=0.5)


@pytest.fixture
def downloads(api, tmp_path):
    """The options for a download from the local Hub."""
    return {"endpoint": api.endpoint, "token": api.token, "cache_dir": tmp_path / "cache"}


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("/whoami", "drip"),
        ("/repos/create", "drip head"),
        ("/preupload/", "hang"),
        ("/commit/", "drip"),
        ("/commit/", "drip head"),
    ],
)
def test_a_push_ends_in_time_whatever_trickles(hub, push, place, what):
    hub.fail(place, *[what] * 10)
    started = time.perf_counter()
    with pytest.raises(HubError, match="not pushed, the Hub took longer than .* seconds") as raised:
        push("pets", patience=BRIEF)
    assert time.perf_counter() - started < 15
    assert "to try again: hf-ddpm push --model " in str(raised.value)
    assert not any(repository.commits for repository in hub.repositories.values())
    assert get_session().event_hooks["response"] == []


def test_the_time_of_a_push_covers_all_its_attempts_and_waits(hub, push):
    hub.fail("/commit/", *[503] * 100)
    started = time.perf_counter()
    with pytest.raises(HubError, match="the Hub answered 503, and the time for this push is over"):
        push(patience=replace(BRIEF, tries=100, first_wait=2.0, total=3.0))
    assert time.perf_counter() - started < 15


def test_an_attempt_in_the_last_moment_reports_the_one_before(hub, push):
    hub.fail("/commit/", 503, *["hang"] * 10)
    with pytest.raises(HubError, match="the Hub answered 503, and the time for this push is over"):
        push(patience=replace(BRIEF, tries=100, first_wait=0.01, total=3.0))


def test_a_large_model_has_more_time(hub, push):
    hub.fail("/commit/", 503)
    push(patience=replace(BRIEF, total=0.0, least_speed=100.0))  # bytes a second
    assert len(hub.repositories["ada/pets"].commits) == 1


@pytest.mark.parametrize("place", ["/repos/create", "/commit/"])
@pytest.mark.parametrize("text", ["x" * 200_000, "\x1b]0;owned\x07\x1b[2J\u202e"])
def test_a_text_of_the_hub_is_cut_and_cleaned(hub, push, pipeline_dir, place, text, caplog):
    hub.fail(place, 422, text=text)
    with pytest.raises(HubError, match="not pushed, the request failed") as raised:
        push()
    message = str(raised.value)
    assert len(message) < 1000 + 2 * len(str(pipeline_dir))
    assert message.isprintable()
    assert message.endswith(f"--model {pipeline_dir} --repo_id ada/pets")
    assert hub.token[:20] not in message


def test_the_name_of_an_account_may_be_anything(hub, push):
    hub.account = "\x1b[31m../../etc"
    with pytest.raises(HubError, match="not pushed"):
        push("pets")
    assert hub.repositories == {}


@pytest.mark.parametrize("what", ["drip", "drip head"])
def test_a_download_that_trickles_ends(hub, push, downloads, what):
    push()
    hub.fail("GET /ada/pets/resolve/main/unet/config.json", *[what] * 10)
    close_session()  # as in a new process: it may trickle from the first byte on
    started = time.perf_counter()
    with pytest.raises(HubTooSlow, match="sent less than 10,000 bytes in 0.5 seconds"), bounded_requests(window=0.5):
        hf_hub_download("ada/pets", "unet/config.json", **downloads)
    assert time.perf_counter() - started < 15
    assert get_session().event_hooks["response"] == []


def test_a_download_that_flows_is_left_alone(hub, push, downloads):
    push()
    with bounded_requests(window=0.5):
        path = hf_hub_download("ada/pets", "unet/diffusion_pytorch_model.safetensors", **downloads)
        time.sleep(1)  # what a caller does between requests takes as long as it takes
        hf_hub_download("ada/pets", "unet/config.json", **downloads)
    with open(path, "rb") as file:
        assert file.read() == hub.repositories["ada/pets"].files["unet/diffusion_pytorch_model.safetensors"]


def test_the_end_of_a_run_survives_a_hub_that_is_slow_or_odd(hub, api, pipeline_dir, caplog):
    hub.fail("/commit/", "drip")
    assert try_push(pipeline_dir, "ada/pets", api=api, patience=BRIEF) is None
    assert try_push(pipeline_dir, "ada/pets", api="not a client", patience=BRIEF) is None
    assert [message.partition(", ")[0] for message in caplog.messages] == [
        "--repo_id is 'ada/pets': not pushed",
        "not pushed",
    ]


LOAD = """
import functools
from hf_ddpm.runtime import hub_requests
hub_requests.bounded_requests = functools.partial(hub_requests.bounded_requests, window=0.5)
from hf_ddpm.sampling import load_pipeline
load_pipeline("ada/pets")
"""


def test_a_model_of_a_slow_hub_ends_in_one_line(hub, push, tmp_path):
    push()
    hub.fail("GET /ada/pets/resolve", *["drip"] * 20)
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**os.environ, **hub.environment(tmp_path / "hf_home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    message = done.stderr.splitlines()[-1]
    assert message.startswith(
        "ValueError: model is 'ada/pets': no such folder exists, and as a model of the Hub it cannot be "
    )
    assert message.endswith("be loaded: the Hub sent less than 10,000 bytes in 0.5 seconds")
