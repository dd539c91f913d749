"""Images that are kept as paths are read inside the data alone, and arrays of pixels as images."""

import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
import torch

from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.data.table import load_images
from hf_ddpm.data.undecoded import _allowed, image_roots, open_undecoded

IMAGES = [np.full((4, 4), value, dtype=np.uint8) for value in (10, 20, 30)]


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, format="png")
    return file.getvalue()


def write_rows(folder: Path, rows: list[dict | None]) -> str:
    folder.mkdir(exist_ok=True)
    schema = datasets.Features({"image": datasets.Image()}).arrow_schema
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}, schema=schema), folder / "train.parquet")
    return str(folder)


def values(source: str, **options) -> list[int]:
    table = load_images(source, "train", image_size=4, **options)
    return table.images(torch.arange(len(table)))[:, 0, 0, 0].tolist()


def read_stream(source: str) -> list[int]:
    batch = open_stream(source, "train", image_size=4).reader(seed=0, batch_size=2).read(0, 0)
    return sorted(batch.images[:, 0, 0, 0].tolist())


@pytest.fixture
def private(tmp_path) -> Path:
    file = tmp_path / "private" / "secret.png"
    file.parent.mkdir()
    file.write_bytes(png(IMAGES[2]))
    return file


@pytest.fixture
def server():
    """An address and the requests that it has got."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", requests
        http.shutdown()


@pytest.mark.parametrize("read", [values, read_stream])
@pytest.mark.parametrize("path", ["absolute", "above", "file URL", "through a folder", "archive", "chain"])
def test_a_row_cannot_name_a_private_file(tmp_path, private, path, read):
    paths = {
        "absolute": str(private),
        "above": "../private/secret.png",
        "file URL": f"file://{private}",
        "through a folder": str(tmp_path / "data" / ".." / "private" / "secret.png"),
        "chain": f"file://{private}::{tmp_path / 'data' / 'train.parquet'}",
        "archive": f"zip://secret.png::{private}",
    }
    source = write_rows(tmp_path / "data", [{"bytes": png(IMAGES[0]), "path": None}, {"bytes": None, "path": paths[path]}])
    with pytest.raises(ValueError, match=r"cannot be decoded .*its path .*(not in a local folder|is an address)") as refused:
        read(source)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("read", [values, read_stream])
def test_a_row_cannot_name_an_address(tmp_path, server, read):
    address, requests = server
    rows = [{"bytes": png(IMAGES[0]), "path": None}, {"bytes": None, "path": f"{address}/x.png"}]
    with pytest.raises(ValueError, match="is an address, and no images are fetched: download it"):
        read(write_rows(tmp_path / "data", rows))
    assert requests == []


def test_it_counts_as_a_bad_image(tmp_path, private):
    source = write_rows(tmp_path / "data", [{"bytes": png(IMAGES[0]), "path": None}, {"bytes": None, "path": str(private)}])
    assert values(source, on_bad_image="skip") == [10]


@pytest.mark.parametrize("read", [values, read_stream])
def test_paths_in_the_folder_are_read_and_bytes_come_first(tmp_path, private, read):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "own.bin").write_bytes(png(IMAGES[1]))
    rows = [{"bytes": png(IMAGES[0]), "path": str(private)}, {"bytes": None, "path": "own.bin"}]
    assert read(write_rows(tmp_path / "data", rows)) == [10, 20]
    rows[1]["path"] = str(tmp_path / "data" / "own.bin")
    assert read(write_rows(tmp_path / "data", rows)) == [10, 20]


def test_a_changed_file_is_decoded_again(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "own.bin").write_bytes(png(IMAGES[1]))
    source = write_rows(tmp_path / "data", [{"bytes": None, "path": "own.bin"}] * 2)
    assert values(source) == [20, 20]
    (tmp_path / "data" / "own.bin").write_bytes(png(IMAGES[2]) + b"\0")
    assert values(source) == [30, 30]


def test_where_files_may_lie(tmp_path):
    """A Hub repository of image files: datasets lists them itself; a parquet file there names none that is read."""
    rows = datasets.Dataset.from_dict({"image": [None]})
    assert image_roots("digits", rows) == () and image_roots("someone/data", rows) == ()
    assert image_roots(str(tmp_path), rows) == (str(tmp_path), str(tmp_path))
    rows.info.builder_name = "imagefolder"
    roots = image_roots("someone/data", rows)
    for path in ("hf://datasets/someone/data@main/a.png", "zip://a.png::hf://datasets/someone/data@main/a.zip"):
        assert _allowed(path, roots) == path
        with pytest.raises(ValueError, match="is an address"):
            _allowed(path.replace("/data@", "/other@"), roots)
    with pytest.raises(ValueError, match="not in a local folder"):
        _allowed("/etc/passwd", roots)
    downloads = Path(huggingface_hub.constants.HF_HUB_CACHE)
    own, other = (str(downloads / f"datasets--someone--{name}" / "snapshots" / "0" / "a.png") for name in ("data", "other"))
    assert _allowed(own, roots) == own
    assert _allowed(f"zip://a.png::{own}", roots) == f"zip://a.png::{own}"
    with pytest.raises(ValueError, match="not in a local folder"):
        _allowed(other, roots)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5), (6, 5)),
        ((6, 5, 1), (6, 5)),
        ((1, 6, 5), (6, 5)),
        ((6, 5, 3), (6, 5, 3)),
        ((3, 6, 5), (6, 5, 3)),
        ((4, 6, 5), (6, 5, 4)),
    ],
)
def test_shapes_of_arrays(shape, expected):
    array = np.random.default_rng(0).integers(0, 256, shape)
    opened = open_undecoded(array.tolist(), ())
    assert opened.shape == expected
    last = array if array.ndim == 2 or shape[-1] in (1, 3) else array.transpose(1, 2, 0)
    assert np.array_equal(opened.reshape(last.shape), last)


@pytest.mark.parametrize("shape", [(3, 5, 3), (6,), (2, 6, 5), (0, 5), (6, 5, 2), (1, 6, 5, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="is not an image"):
        open_undecoded(np.zeros(shape), ())
