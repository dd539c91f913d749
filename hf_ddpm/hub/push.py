"""Push a saved pipeline with its model card to the Hub, as one commit or none.

A push retries while the Hub is slow or busy, within a limit for all of it, and a failed one ends with the command to try
again. Tokens are read by huggingface_hub (HF_TOKEN, or `hf auth login`) and never shown.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, close_session, get_session, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

# Base class of failed connections, whichever HTTP package huggingface_hub is built on.
from huggingface_hub.errors import HTTPError as TransportError
from huggingface_hub.utils import build_hf_headers, validate_repo_id

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.hub.card import README, files_to_publish
from hf_ddpm.hub.choices import CardChoices
from hf_ddpm.hub.contents import check_tokens, pipeline_files
from hf_ddpm.hub.facts import MAX_REASON, read_pipeline
from hf_ddpm.hub.seal import is_rendered
from hf_ddpm.runtime.folders import put_back
from hf_ddpm.runtime.hub_requests import HubTooSlow, bounded_requests
from hf_ddpm.text import one_line

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
    total: float = 600.0
    """Seconds for the whole push, to which the size of its files adds."""
    least_speed: float = 100_000.0
    """Bytes of the files for which it gets another second."""


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
    choices: CardChoices | None = None,
) -> str:
    """Create the repository if needed, upload pipeline and card in one commit, and return the URL of the repository.

    Args:
        folder: a saved pipeline with safetensors; for the `pipeline/` of a run, the card is rendered again from that run.
        repo_id: OWNER/NAME, or NAME for the account that is logged in.
        private: whether a new repository is private; None = the account's default.
        commit_message: None = "Upload" and the class of the pipeline.
        api: client with endpoint and token; None = as the environment says.
        patience: None = the defaults of `Patience`.
        choices: what the card says besides; None = as the card there.

    A ValueError names a wrong folder or name, or a choice that cannot be written into the card, its subclass HubError a Hub
    that refused or could not be reached.
    """
    folder = Path(folder)
    _check_repo_id(repo_id)
    put_back(folder)
    files = pipeline_files(folder)
    options = ["--model", str(folder), "--repo_id", repo_id]
    options += [] if private is None else ["--private", str(private).lower()]
    for option in ("license", "dataset") if choices is not None else ():
        options += [] if (value := getattr(choices, option)) is None else [f"--{option}", value]

    def contents_of(name: str) -> tuple[dict[str, Path | bytes], bool]:
        card = files_to_publish(folder, name, choices)
        contents: dict[str, Path | bytes] = {**files, **card}
        check_tokens(folder, contents)
        return contents, README in card

    return _push(
        files,
        contents_of,
        repo_id,
        private=private,
        message=commit_message or f"Upload {read_pipeline(folder).class_name}",
        again=f"{folder} is untouched; to try again: {as_typed('hf-ddpm push')} {shlex.join(options)}",
        api=api,
        patience=patience,
    )


def push_space(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    api: HfApi | None = None,
    patience: Patience | None = None,
) -> str:
    """Create a static Space if needed, upload all files of a folder in one commit, and return the URL of the Space.

    Args:
        folder: with an index.html, and a README.md whose first lines are those of a static Space.
        repo_id, private, api, patience, and errors: see `push_folder`.
    """
    folder = Path(folder)
    _check_repo_id(repo_id)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    command = ["hf", "upload", repo_id, str(folder), ".", "--repo-type", "space"]
    return _push(
        files,
        lambda name: (dict(files), False),
        repo_id,
        private=private,
        message="Upload a page that runs a model",
        again=f"{folder} is written; to try again: {shlex.join(command)}",
        api=api,
        patience=patience,
        repo_type="space",
    )


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo_id is {repo_id!r}: give OWNER/NAME or NAME; {error}") from None


def _push(
    files: Mapping[str, Path],
    contents_of: Callable[[str], tuple[dict[str, Path | bytes], bool]],
    repo_id: str,
    *,
    private: bool | None,
    message: str,
    again: str,
    api: HfApi | None,
    patience: Patience | None,
    repo_type: Literal["model", "space"] = "model",
) -> str:
    """Create a repository if needed, and upload files in one commit.

    Args:
        files: most of them, whose size decides how long it may take.
        contents_of: all files by path in a repository of this name, and whether the README.md is a rendered card.
        again: how to try again, for the message of a `HubError`.
        repo_type: a Space is a static one.
    """
    api, patience = api or HfApi(), patience or Patience()
    size = sum(file.stat().st_size for file in files.values())
    deadline = time.monotonic() + patience.total + size / patience.least_speed
    sdk = "static" if repo_type == "space" else None
    try:
        name = repo_id
        if "/" not in repo_id:
            name = _patiently(lambda: f"{api.whoami()['name']}/{repo_id}", patience, deadline)
        contents, is_rendered_card = contents_of(name)

        def push() -> str:
            left_out = _check_readme(api, name, contents.get(README), repo_type, rendered=is_rendered_card)
            # If only the answer of an earlier attempt was lost, the repository exists and the commit is empty and not made.
            url = api.create_repo(name, private=private, exist_ok=True, repo_type=repo_type, space_sdk=sdk)
            chosen = {path: file for path, file in contents.items() if path not in left_out}
            operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in chosen.items()]
            api.create_commit(name, operations, commit_message=message, repo_type=repo_type)
            return one_line(url, MAX_REASON)

        return _patiently(push, patience, deadline)
    except HubError as trouble:
        reason = _without_tokens(str(trouble), api)
        raise HubError(f"--repo_id is {repo_id!r}: not pushed, {reason}. {again}") from None


def try_push(folder: str | Path, repo_id: str, **options: Any) -> str | None:
    """Do `push_folder` at the end of a run, which must end well: None = not pushed, and the log says why."""
    try:
        url = push_folder(folder, repo_id, **options)
    except Exception as error:
        name = "" if isinstance(error, ValueError | OSError) else f"not pushed, {type(error).__name__}: "
        logger.warning("%s%s", name, error)
        return None
    print(f"pushed:   {url}")
    return url


def _check_readme(
    api: HfApi, repo_id: str, readme: Path | bytes | None, repo_type: Literal["model", "space"], *, rendered: bool
) -> set[str]:
    """Return the name README.md if it must not be pushed: a rendered card that the Hub refuses, or over one edited there.

    A `HubError` refuses wrong metadata that a user has written, before there is a repository.
    """
    if readme is None:
        return set()
    headers = build_hf_headers(token=api.token)
    content = (readme if isinstance(readme, bytes) else readme.read_bytes()).decode("utf-8", "replace")
    body = {"content": content, "repoType": repo_type}
    answer = get_session().post(f"{api.endpoint}/api/validate-yaml", json=body, headers=headers)
    if answer.status_code == 400:
        fault = "; ".join(str(error.get("message")) for error in answer.json().get("errors", []))
        if not rendered:
            raise HubError(f"the metadata of README.md are wrong ({fault})")
        logger.warning("%s is pushed without its rendered model card, the Hub refuses it: %s", repo_id, fault[:MAX_REASON])
        return {README}
    if rendered and _has_own_readme(hf_hub_url(repo_id, README, endpoint=api.endpoint), headers):
        logger.info("the README.md of %s was written or edited on the Hub and stays as it is", repo_id)
        return {README}
    return set()


def _has_own_readme(url: str, headers: dict[str, str]) -> bool:
    """Whether somebody has written or edited the README.md on the Hub; metadata alone, as for a license, do not count."""
    answer = get_session().get(url, headers=headers)
    if answer.status_code != 200:  # there is none, or what comes next says why
        return False
    without_metadata = re.sub(r"\A---\r?\n.*?^---\s*$", "", answer.text, flags=re.DOTALL | re.MULTILINE)
    return bool(without_metadata.strip()) and not is_rendered(answer.text)


def _without_tokens(text: str, api: HfApi) -> str:
    for token in (api.token, get_token()):
        text = text.replace(token, "TOKEN") if isinstance(token, str) and token else text
    return one_line(text, MAX_REASON)


def _patiently(call: Callable[[], Result], patience: Patience, deadline: float) -> Result:
    """Call until it succeeds, fails for good or runs out of attempts or time; a `HubError` says why, in a few words."""
    wait, before = patience.first_wait, None
    for attempt in range(1, patience.tries + 1):
        close_session()  # so that every connection of this attempt is a new one, and known to what bounds it
        left = max(0.0, deadline - time.monotonic())
        try:
            with bounded_requests(timeout=patience.timeout, total=left, window=None), _watched_requests():
                return call()
        # Any exception, because the client raises all kinds of them on unexpected answers.
        except Exception as error:
            if before is not None and isinstance(error, HubTooSlow):  # in what little time that attempt had left
                raise HubError(f"{before}, and the time for this push is over") from error
            final = isinstance(error, OfflineModeIsEnabled | HfHubHTTPError | HubTooSlow)
            if final or not isinstance(error, _TryAgain | TransportError | ConnectionError | TimeoutError):
                raise HubError(_explain(error)) from error
            asked = getattr(error, "wait", None)
            if asked is not None and asked > patience.longest_wait:
                raise HubError(f"{error} and asks to wait {asked:g} seconds") from error
            if attempt == patience.tries:
                raise HubError(f"{_explain(error)}, {attempt} times") from error
            pause = wait if asked is None else asked
            if time.monotonic() + pause > deadline:
                raise HubError(f"{_explain(error)}, and the time for this push is over") from error
            before = _explain(error)
        time.sleep(pause)
        wait *= 2
    raise AssertionError("unreachable: the last attempt returns or raises")


@contextlib.contextmanager
def _watched_requests() -> Iterator[None]:
    """Raise `_TryAgain` where another attempt may help."""
    # Some calls retry by themselves, for as long as the Hub says and within each of our attempts.
    session = get_session()
    hooks = session.event_hooks
    unanswered: set[tuple[str, str]] = set()

    def before(request: Any) -> None:
        if (request.method, str(request.url)) in unanswered:
            raise _TryAgain("the Hub did not answer")
        unanswered.add((request.method, str(request.url)))

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
    if isinstance(error, _TryAgain | HubTooSlow | HubError):
        return str(error)
    detail = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, TransportError) and status is None:
        return f"the Hub did not answer ({type(error).__name__}: {detail})"
    return f"the request failed ({type(error).__name__}: {detail})"
