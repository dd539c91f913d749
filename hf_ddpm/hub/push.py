"""Push a saved pipeline with its model card to the Hub, as one commit or none.

A push retries while the Hub is slow or busy, up to a limit, and a failed one ends with the command to try again. Tokens are
read by huggingface_hub (HF_TOKEN, or `hf auth login`) and never shown.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

# Base class of failed connections, whichever HTTP package huggingface_hub is built on.
from huggingface_hub.errors import HTTPError as TransportError
from huggingface_hub.utils import validate_repo_id

from hf_ddpm.hub.card import files_to_publish
from hf_ddpm.hub.facts import read_pipeline
from hf_ddpm.runtime.folders import put_back

PUBLISHED = {".safetensors", ".json", ".py", ".md", ".png", ".yaml"}
PICKLED = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
EVAL_RESULTS = ".eval_results"

Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class HubError(ValueError):
    """A push failed; the message says why and gives the command to try again."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long and how often a push tries."""

    timeout: float = 60.0
    """Seconds for a request to connect, and between two pieces of its answer."""
    tries: int = 5
    """Attempts before the push fails."""
    first_wait: float = 1.0
    """Seconds before the second attempt, then doubled each time; a Retry-After from the Hub takes precedence."""
    longest_wait: float = 60.0
    """The push fails if the Hub asks for a longer wait than this, in seconds."""


class _TryAgain(Exception):
    """The Hub is busy or broken, perhaps temporarily; `wait`: seconds to wait as it requests, None = it did not say."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str | None = None,
    api: HfApi | None = None,
    patience: Patience | None = None,
) -> str:
    """Create the repository if needed, upload pipeline and card in one commit, and return the URL of the repository.

    Args:
        folder: a saved pipeline with safetensors; for the `pipeline/` of a run, the card is rendered again from that run.
        repo_id: OWNER/NAME, or NAME for the account that is logged in.
        private: whether a new repository is private; None = the account's default.
        commit_message: None = "Upload" and the class of the pipeline.
        api: client with endpoint and token; None = as the environment says.
        patience: None = the defaults of `Patience`.

    A ValueError names a wrong folder or name, its subclass HubError a Hub that refused or could not be reached.
    """
    folder, api, patience = Path(folder), api or HfApi(), patience or Patience()
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo_id is {repo_id!r}: give OWNER/NAME or NAME; {error}") from None
    put_back(folder)
    files = pipeline_files(folder)
    message = commit_message or f"Upload {read_pipeline(folder).class_name}"
    try:
        name = repo_id if "/" in repo_id else f"{_patiently(api.whoami, patience)['name']}/{repo_id}"
        contents: dict[str, Path | bytes] = {**files, **files_to_publish(folder, name)}

        def push() -> str:
            # If only the answer of an earlier attempt was lost, the repository exists and the commit is empty and not made.
            url = api.create_repo(name, private=private, exist_ok=True)
            operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in contents.items()]
            api.create_commit(name, operations, commit_message=message)
            return str(url)

        return _patiently(push, patience)
    except HubError as trouble:
        command = ["python", "train_scripts/push_to_hub.py", "--model", str(folder), "--repo_id", repo_id]
        command += [] if private is None else ["--private", str(private).lower()]
        text = f"--repo_id is {repo_id!r}: not pushed, {trouble}. {folder} is untouched; to try again: {shlex.join(command)}"
        for token in (api.token, get_token()):
            text = text.replace(token, "TOKEN") if isinstance(token, str) and token else text
        raise HubError(text) from None


def try_push(folder: str | Path, repo_id: str, **options: Any) -> str | None:
    """Do `push_folder` at the end of a run, which must end well: None = not pushed, and the log says why."""
    try:
        url = push_folder(folder, repo_id, **options)
    except (ValueError, OSError) as error:
        logger.warning("%s", error)
        return None
    print(f"pushed:   {url}")
    return url


def pipeline_files(folder: Path) -> dict[str, Path]:
    """Find the files of a saved pipeline and its components, by path in the repository.

    A ValueError refuses a folder that is not a saved pipeline, has only pickled weights, or lacks the network's code.
    """
    pipeline = read_pipeline(folder)
    components, code = pipeline.components, pipeline.network_code
    remedy = "load the pipeline and save it again with save_pretrained"
    if code is not None and not (folder / code).is_file():
        raise ValueError(f"--model is {str(folder)!r}: the network's code, {code}, is missing: {remedy}")
    for component in components:
        suffixes = {path.suffix for path in (folder / component).glob("*")}
        if suffixes & PICKLED and ".safetensors" not in suffixes:
            raise ValueError(f"--model is {str(folder)!r}: the weights in {component}/ are not safetensors: {remedy}")
    # The training state of a checkpoint (training/, manifest.json) and unrelated files are not published.
    inside = [path for name in (*components, EVAL_RESULTS) for path in sorted((folder / name).rglob("*"))]
    found = [path for path in (*sorted(folder.iterdir()), *inside) if path.is_file() and path.suffix in PUBLISHED]
    named = [path for path in found if path.name != "manifest.json" and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path for path in named}


def _patiently(call: Callable[[], Result], patience: Patience) -> Result:
    """Call until it succeeds, fails for good or runs out of attempts; a `HubError` says why, in a few words."""
    wait = patience.first_wait
    for attempt in range(1, patience.tries + 1):
        try:
            with _watched_requests(patience.timeout):
                return call()
        # Any exception, because the client raises all kinds of them on unexpected answers.
        except Exception as error:
            final = isinstance(error, OfflineModeIsEnabled | HfHubHTTPError)
            if final or not isinstance(error, _TryAgain | TransportError | ConnectionError | TimeoutError):
                raise HubError(_explain(error)) from error
            asked = getattr(error, "wait", None)
            if asked is not None and asked > patience.longest_wait:
                raise HubError(f"{error} and asks to wait {asked:g} seconds") from error
            if attempt == patience.tries:
                raise HubError(f"{_explain(error)}, {attempt} times") from error
        time.sleep(wait if asked is None else asked)
        wait *= 2
    raise AssertionError("unreachable: the last attempt returns or raises")


@contextlib.contextmanager
def _watched_requests(timeout: float) -> Iterator[None]:
    """Give every request of the shared client a timeout, and raise `_TryAgain` where another attempt may help."""
    # Hooks rather than a client with a timeout, as some calls override the timeout of their client with none, and others
    # retry by themselves, for as long as the Hub says and within each of our attempts.
    session = get_session()
    hooks = session.event_hooks
    unanswered: set[tuple[str, str]] = set()

    def before(request: Any) -> None:
        if (request.method, str(request.url)) in unanswered:
            raise _TryAgain("the Hub did not answer")
        unanswered.add((request.method, str(request.url)))
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), timeout)

    def after(response: Any) -> None:
        unanswered.discard((response.request.method, str(response.request.url)))
        status = response.status_code
        if status in (408, 429) or status >= 500:
            retry_after = response.headers.get("Retry-After", "")
            raise _TryAgain(f"the Hub answered {status}", float(retry_after) if retry_after.isdecimal() else None)

    session.event_hooks = {"request": [*hooks["request"], before], "response": [*hooks["response"], after]}
    try:
        yield
    finally:
        session.event_hooks = hooks


def _explain(error: Exception) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "you are not logged in, or the token is wrong: run `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return "the token has no write access there (403): give your own OWNER/NAME, or another token to `hf auth login`"
    if isinstance(error, _TryAgain):
        return str(error)
    detail = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, TransportError) and status is None:
        return f"the Hub did not answer ({type(error).__name__}: {detail})"
    return f"the request failed ({type(error).__name__}: {detail})"
