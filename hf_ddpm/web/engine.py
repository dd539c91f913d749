"""onnxruntime-web, which runs the network in a browser: `engine_files()` are those files of its npm package that are needed.

The package is downloaded from the npm registry once, and kept in `hf_ddpm/onnxruntime-web` of HF_HOME.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from hf_ddpm.runtime.folders import publish_directory
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.runtime.reading import read_json

VERSION = "1.30.0"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, in base64, as the registry and lock files of npm have it."""
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What of `dist/` runs networks by WebAssembly with SIMD."""
NOTICES = ("LICENSE", "ThirdPartyNotices.txt")
"""Of ONNX Runtime; the npm package has none, and that for Python is built from the same sources."""
SECONDS = 60


def engine_files(folder: Path | None = None) -> dict[str, Path]:
    """The files of onnxruntime-web and its licenses, by name.

    Args:
        folder: of the unpacked npm package; None = that of the cache, where it is downloaded to if it is not there.

    Raises:
        ValueError: the folder is not that of the version that the page is tested with.
        OSError: the package could not be downloaded.
    """
    if folder is None:
        folder = cache_folder()
        if not folder.is_dir():
            publish_directory(folder, lambda partial: _unpack(_download(), partial))
    else:
        found = read_json(folder / "package.json").get("version") if (folder / "package.json").is_file() else None
        if found != VERSION:
            name = f"onnxruntime-web {found}" if found else "no onnxruntime-web"
            remedy = f"give the folder `package` of `npm pack onnxruntime-web@{VERSION}`, unpacked"
            raise ValueError(f"engine_dir is {str(folder)!r}: it has {name}, {remedy}")
        folder = folder / "dist"
    files = {name: folder / name for name in FILES}
    for name, path in files.items():
        if not path.is_file():
            raise ValueError(f"engine_dir is {str(folder)!r}: it has no {name}")
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None and spec.origin is not None, "the extra web has it"
    return files | {name: Path(spec.origin).with_name(name) for name in NOTICES}


def cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME, "hf_ddpm", f"onnxruntime-web-{VERSION}")


def _download() -> bytes:
    try:
        with Progress(f"downloading onnxruntime-web {VERSION}"), urllib.request.urlopen(ADDRESS, timeout=SECONDS) as answer:
            content: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        remedy = f"or give --engine_dir, the folder `package` of `npm pack onnxruntime-web@{VERSION}`, unpacked"
        raise OSError(f"{ADDRESS} could not be downloaded ({reason}): try again, {remedy}") from error
    check_package(content)
    return content


def check_package(content: bytes) -> None:
    """Refuse a package that is not the one this version was tested with."""
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise OSError(f"{ADDRESS} is not the file that it was, its sha512 differs: nothing of it is used")


def _unpack(content: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        for name in FILES:
            member = package.extractfile(f"package/dist/{name}")
            assert member is not None, "its digest is that of a package that has it"
            (folder / name).write_bytes(member.read())
