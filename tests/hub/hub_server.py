"""A small Hub on this machine: the requests that the real client makes to create, commit, list and download, kept in memory.

    with HubServer() as hub:            # the token it accepts: HubServer(token="...")
        hub.fail("/commit/", 500, 500)  # the next two requests whose method and path contain this are answered 500
        hub.fail("/commit/", HANG)      # not at all; DRIP: byte by byte; DRIP_HEAD: so slowly from the head on
        environment = hub.environment(cache_folder)

As a script it prints the address it listens at and serves until its input ends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_standInTokenThatMustNotShow0123456789"
ACCOUNT = "ada"
HANG, DRIP, DRIP_HEAD = "hang", "drip", "drip head"
DRIP_SECONDS = 0.05
YAML_BLOCK = re.compile(r"^---\n(.*?)\n---(\n|$)", re.DOTALL)
LIBRARIES, PIPELINE_TAGS = {"diffusers"}, {"unconditional-image-generation"}


@dataclass
class Repository:
    """One repository: its files, and the files that each commit brought."""

    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    private: bool = False
    kind: str = "model"
    sdk: str | None = None

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((len(self.commits), sorted(self.files))).encode()).hexdigest()


class HubServer:
    """The server, in a thread of its own; `address`, `repositories` by OWNER/NAME and `requests` may be read."""

    def __init__(self, token: str = TOKEN):
        self.token, self.account = token, ACCOUNT
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.refusals: list[str] = []
        self._faults: list[tuple[str, int | str, dict[str, str], str]] = []
        self._stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fail(self, path_part: str, *answers: int | str, headers: dict[str, str] | None = None, text: str = "no") -> None:
        """Answer the next requests whose method and path contain this with these codes and text, or as constants say."""
        self._faults += [(path_part, answer, headers or {}, text) for answer in answers]

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables that send the client of a new process here, with its cache in `folder`."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(folder),
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def take_fault(self, request: str) -> tuple[int | str, dict[str, str], str] | None:
        for fault in self._faults:
            if fault[0] in request:
                self._faults.remove(fault)
                return fault[1:]
        return None

    def wait_for_the_end(self, seconds: float = 30) -> bool:
        return self._stopped.wait(seconds)


def validate_space(content: str) -> dict[str, list[dict[str, str]]]:
    """Check the metadata of the README.md of a static Space."""
    block = YAML_BLOCK.match(content)
    data = yaml.safe_load(block[1]) if block else {}
    is_sound = data.get("sdk") == "static" and isinstance(data.get("title"), str)
    return {"errors": [] if is_sound else [{"message": '"sdk" or "title" is wrong'}], "warnings": []}


def validate_card(content: str) -> dict[str, list[dict[str, str]]]:
    """Check the metadata of a README.md as strictly as can be done here, and answer in the Hub's form."""
    errors = []
    block = YAML_BLOCK.match(content)
    try:
        data = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as error:
        data, errors = None, [str(error)]
    if not isinstance(data, dict):
        errors.append("the metadata is not a YAML mapping")
    else:
        if data.get("library_name") not in LIBRARIES:
            errors.append('"library_name" is not known')
        if data.get("pipeline_tag") not in {None, *PIPELINE_TAGS}:
            errors.append('"pipeline_tag" is not known')
        if not all(isinstance(tag, str) for tag in data.get("tags", [])):
            errors.append('"tags" must be strings')
        if not all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)) for name in data.get("datasets", [])):
            errors.append('"datasets" must be ids')
        for model in data.get("model-index", []):
            for result in model["results"]:
                whole = {"type"} <= set(result["task"]) and {"type", "name"} <= set(result["dataset"])
                if not whole or not all({"type", "value"} <= set(metric) for metric in result["metrics"]):
                    errors.append('"model-index" lacks a key')
    return {"errors": [{"message": message} for message in errors], "warnings": []}


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; `self.server.hub` is the `HubServer`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer_request()

    do_GET = do_POST = do_HEAD

    def answer_request(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.hub.requests.append((self.command, path))
        fault = self.server.hub.take_fault(f"{self.command} {path}")
        if fault is not None:
            status, headers, text = fault
            if isinstance(status, str):
                self.close_connection = True
                return self.drip(status) if status != HANG else self.server.hub.wait_for_the_end()
            # A careless server repeats the token.
            return self.send({"error": f"{text}: {self.headers.get('Authorization')}"}, status, headers)
        needs_token = self.command == "POST" or "whoami" in path
        if (
            needs_token
            and "validate-yaml" not in path
            and self.headers.get("Authorization") != f"Bearer {self.server.hub.token}"
        ):
            return self.send({"error": "Invalid username or password."}, 401)
        for pattern, respond in _ROUTES:
            if match := re.fullmatch(pattern, path):
                return respond(self, *match.groups())
        self.server.hub.refusals.append(f"{self.command} {path}")
        return self.send({"error": "no such page"}, 404)

    def drip(self, what: str) -> None:
        """Send an answer of 1 MB byte by byte, up to 30 seconds; of `DRIP` the head at once."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
        answer = head + b"X: " + b"x" * 1000 if what == DRIP_HEAD else b" " * 1000
        try:
            self.wfile.write(b"" if what == DRIP_HEAD else head + b"\r\n")
            if self.command == "HEAD" and what == DRIP:
                return
            for i in range(len(answer)):
                self.wfile.write(answer[i : i + 1])
                if i * DRIP_SECONDS > 30 or self.server.hub.wait_for_the_end(DRIP_SECONDS):
                    return
        except OSError:  # the client has gone
            return

    def send(self, answer, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def repository(self, name: str) -> Repository | None:
        if name not in self.server.hub.repositories:
            self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        return self.server.hub.repositories.get(name)

    def whoami(self) -> None:
        self.send({"name": self.server.hub.account, "type": "user", "orgs": []})

    def validate(self) -> None:
        asked = json.loads(self.body)
        answer = (validate_space if asked["repoType"] == "space" else validate_card)(asked["content"])
        self.send(answer, 400 if answer["errors"] else 200)

    def create(self) -> None:
        options = json.loads(self.body)
        name = f"{options['organization'] or ACCOUNT}/{options['name']}"
        kind = options.get("type", "model")
        place = f"spaces/{name}" if kind == "space" else name
        answer = {"url": f"{self.server.hub.address}/{place}", "name": name}
        if name in self.server.hub.repositories:
            return self.send({**answer, "error": "You already created this model repo"}, 409)
        self.server.hub.repositories[name] = Repository(
            private=options.get("visibility") == "private", kind=kind, sdk=options.get("sdk")
        )
        return self.send(answer)

    def preupload(self, name: str) -> None:
        if (repository := self.repository(name)) is None:
            return
        files = []
        for file in json.loads(self.body)["files"]:
            content = repository.files.get(file["path"])
            oid = None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            files.append({"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": oid})
        self.send({"files": files})

    def commit(self, name: str) -> None:
        if (repository := self.repository(name)) is None:
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        assert len(lines) == 1 + len(files), "only whole files are committed"
        repository.files.update(files)
        repository.commits.append(files)
        repository.messages.append(lines[0]["value"]["summary"])
        self.send(
            {
                "commitUrl": f"{self.server.hub.address}/{name}/commit/{repository.sha}",
                "commitOid": repository.sha,
                "success": True,
            }
        )

    def info(self, name: str) -> None:
        if repository := self.repository(name):
            siblings = [{"rfilename": path} for path in sorted(repository.files)]
            self.send(
                {
                    "_id": "0",
                    "id": name,
                    "modelId": name,
                    "sha": repository.sha,
                    "siblings": siblings,
                    "tags": [],
                    "private": False,
                }
            )

    def tree(self, name: str) -> None:
        if repository := self.repository(name):
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in sorted(repository.files.items())
            ]
            self.send(entries)

    def resolve(self, name: str, path: str) -> None:
        if repository := self.repository(name):
            if path not in repository.files:
                return self.send(
                    {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.sha}
                )
            content = repository.files[path]
            self.send(content, headers={"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repository.sha})


_ROUTES = [
    ("/api/whoami-v2", _Handler.whoami),
    ("/api/validate-yaml", _Handler.validate),
    ("/api/repos/create", _Handler.create),
    ("/api/(?:models|spaces)/([^/]+/[^/]+)/preupload/[^/]+", _Handler.preupload),
    ("/api/(?:models|spaces)/([^/]+/[^/]+)/commit/[^/]+", _Handler.commit),
    ("/api/models/([^/]+/[^/]+)/tree/[^/]+", _Handler.tree),
    ("/api/(?:models|spaces)/([^/]+/[^/]+)(?:/revision/[^/]+)?", _Handler.info),
    ("/([^/]+/[^/]+)/resolve/[^/]+/(.+)", _Handler.resolve),
]


if __name__ == "__main__":
    with HubServer() as server:
        print(server.address, flush=True)
        sys.stdin.read()
