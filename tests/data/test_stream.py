"""Reading while training: the same images from every position, ranks that share an epoch, and mistakes that are named."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hf_ddpm.data.open_stream import FIRST_IMAGES, open_stream
from hf_ddpm.data.stream import ImageStream
from hf_ddpm.data.table import load_images

NAMES = ["a", "b", "c"]


def picture(value: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.full((2, 2), value, dtype=np.uint8))


def make_dataset(values: list[int], labels: list | None = None, feature=None) -> datasets.Dataset:
    """Images that are filled with their value; the label is the value modulo 3."""
    columns = {
        "image": [picture(value) for value in values],
        "label": [v % 3 for v in values] if labels is None else labels,
    }
    dataset = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    return dataset.cast_column("label", feature or datasets.ClassLabel(names=NAMES))


def write_parquet(folder: Path, lengths: list[int]) -> str:
    """A split of several files; the values of the images are 0, 1, 2, ..."""
    (folder / "data").mkdir(parents=True)
    first = 0
    for number, length in enumerate(lengths):
        name = f"train-{number:05}-of-{len(lengths):05}.parquet"
        make_dataset(list(range(first, first + length))).to_parquet(str(folder / "data" / name))
        first += length
    return str(folder)


def save(folder: Path, dataset: datasets.Dataset) -> str:
    dataset.save_to_disk(str(folder))
    return str(folder)


def open_tiny(source: str, split: str = "train", **options) -> ImageStream:
    return open_stream(source, split, **({"image_size": 2, "shuffle_buffer": 4} | options))


def shades(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def read_all(stream: ImageStream, count: int, *, batch_size: int = 1, **options) -> list[int]:
    """The first images that a process reads, through batches that follow each other."""
    reader = stream.reader(seed=0, batch_size=batch_size, **options)
    step = batch_size * options.get("num_processes", 1)
    return [shade for i in range(count // batch_size) for shade in shades(reader.read(i * step, 0).images)]


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert type(caught.value) is ValueError and "\n" not in message
    return message


# Order

KINDS = {"even": [4, 4, 4, 4, 4, 4], "uneven": [5, 1, 4, 4], "one": [7]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("streams")
    return {kind: write_parquet(root / kind, lengths) for kind, lengths in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_divide_every_epoch(folders, kind, num_processes):
    stream, orders = open_tiny(folders[kind]), set()
    lengths = [len(list(stream.epoch(0, 0, num_processes, index))) for index in range(num_processes)]
    parts = [
        read_all(stream, 3 * length, num_processes=num_processes, process_index=index)
        for index, length in enumerate(lengths)
    ]
    for epoch in range(3):
        shares = [part[epoch * n : (epoch + 1) * n] for part, n in zip(parts, lengths, strict=True)]
        assert sorted(sum(shares, [])) == list(range(sum(KINDS[kind])))
        orders.add(str(shares))
    assert len(orders) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_fresh_reader_reads_what_an_old_one_would(folders, kind, num_processes):
    options = {"num_processes": num_processes, "process_index": num_processes - 1}
    stream = open_tiny(folders[kind])
    expected = read_all(stream, 64, **options)
    for position in (0, 1, 2, 6, 7, 8, 13, 14, 24, 25, 48, 55):
        reader = stream.reader(seed=0, batch_size=5, **options)
        assert shades(reader.read(position * num_processes, 0).images) == expected[position : position + 5]


def test_reading_back_and_forth(folders):
    stream = open_tiny(folders["one"])
    expected = read_all(stream, 60)
    reader = stream.reader(seed=0, batch_size=3)
    for images_seen, micro_step in [(0, 0), (0, 1), (6, 0), (6, 0), (3, 1), (30, 2), (0, 0), (40, 0), (43, 0), (14, 0)]:
        start = images_seen + 3 * micro_step
        assert shades(reader.read(images_seen, micro_step).images) == expected[start : start + 3]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 20])
def test_order_does_not_depend_on_the_batch_size(folders, batch_size):
    stream = open_tiny(folders["one"])
    count = 40 // batch_size * batch_size
    assert read_all(stream, count, batch_size=batch_size) == read_all(stream, count)


def test_neighbours_in_the_data_do_not_always_meet_in_a_batch(folders):
    stream = open_tiny(folders["one"], shuffle_buffer=7)
    first, second = (read_all(stream, 24, num_processes=2, process_index=index) for index in (0, 1))
    assert any(abs(a - b) > 1 for a, b in zip(first, second, strict=True))


def test_images_keep_their_labels(folders):
    batch = open_tiny(folders["even"]).reader(seed=3, batch_size=50).read(0, 0)
    assert batch.images.shape == (50, 1, 2, 2) and batch.images.dtype == torch.uint8
    assert batch.class_labels.dtype == torch.int64
    assert batch.class_labels.tolist() == [shade % 3 for shade in shades(batch.images)]


def test_seed_decides_the_order(folders):
    stream = open_tiny(folders["even"])
    orders = {
        tuple(shades(stream.reader(seed=seed, batch_size=24).read(24 * k, 0).images)) for seed in (0, 1) for k in (0, 1)
    }
    assert len(orders) == 4
    assert "seed is -1: give" in refusal(stream.reader, seed=-1, batch_size=1)


# Sources


def test_stream_equals_the_table(tmp_path):
    """The same images, labels and facts from every kind of source."""
    folder = tmp_path / "files"
    for value in range(7):
        (folder / NAMES[value % 3]).mkdir(parents=True, exist_ok=True)
        picture(value).save(folder / NAMES[value % 3] / f"{value}.png")
    sources = [
        str(folder),
        write_parquet(tmp_path / "parquet", [4, 3]),
        save(tmp_path / "saved", make_dataset(list(range(7)))),
    ]
    for source, size, count in [(source, 2, 7) for source in sources] + [("digits", 8, 360)]:
        split = "test" if source == "digits" else "train"
        stream, table = open_tiny(source, split, image_size=size), load_images(source, split, image_size=size)
        assert (stream.channels, stream.image_size, stream.class_names) == (1, (size, size), table.class_names)
        assert stream.num_images == (None if "parquet" in source else count) and table.num_images == count
        head = stream.head(1000)
        assert head.fingerprint == table.fingerprint
        batch = stream.reader(seed=0, batch_size=count).read(0, 0)
        assert sorted(zip(batch.images.flatten(1).tolist(), batch.class_labels.tolist(), strict=True)) == sorted(
            zip(table.images(torch.arange(count)).flatten(1).tolist(), table.class_labels.tolist(), strict=True)
        )


def test_head_is_the_first_images(folders):
    head = open_tiny(folders["uneven"]).head(6)
    assert (len(head), shades(head.images(torch.arange(6)))) == (6, [0, 1, 2, 3, 4, 5])
    assert head.class_labels.tolist() == [0, 1, 2, 0, 1, 2] and head.class_names == NAMES


def test_images_inside_an_archive_are_opened_by_their_address(tmp_path):
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "pets.zip", "w") as archive:
        for value in range(4):
            picture(value).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"{value}.png")
    stream = open_tiny(str(tmp_path / "zipped"))
    assert stream.first["image"]["bytes"] is None and "://" in stream.first["image"]["path"]
    assert sorted(read_all(stream, 4)) == [0, 1, 2, 3]


def test_unlabelled_images(tmp_path):
    for value in range(3):
        (tmp_path / "flat").mkdir(exist_ok=True)
        picture(value).save(tmp_path / "flat" / f"{value}.png")
    stream = open_tiny(str(tmp_path / "flat"))
    assert stream.class_names is None and stream.reader(seed=0, batch_size=2).read(0, 0).class_labels is None
    assert stream.head(2).class_labels is None
    assert "class_conditional is True, but no column" in refusal(open_tiny, str(tmp_path / "flat"), class_conditional=True)


# Options


@pytest.mark.parametrize("num_processes", [1, 2])
def test_kept_classes_are_renumbered(folders, num_processes):
    stream = open_tiny(folders["even"], labels=["c", 0])
    assert stream.class_names == ["c", "a"] and stream.num_images is None
    seen = []
    for index in range(num_processes):
        reader = stream.reader(seed=0, batch_size=16 // num_processes, num_processes=num_processes, process_index=index)
        batch = reader.read(0, 0)
        assert batch.class_labels.tolist() == [{2: 0, 0: 1}[shade % 3] for shade in shades(batch.images)]
        seen += shades(batch.images)
    assert sorted(seen) == [value for value in range(24) if value % 3 != 1]
    stream = open_tiny(folders["even"], labels=["b"], class_conditional=False)
    assert stream.class_names is None and sorted(read_all(stream, 8)) == list(range(1, 24, 3))


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_max_images_are_the_first_of_the_stream(folders, num_processes):
    for labels, wanted in ((None, [0, 1, 2, 3, 4, 5]), (["b"], [1, 4, 7, 10, 13, 16])):
        stream = open_tiny(folders["even"], labels=labels, max_images=6)
        assert stream.num_images is None and shades(stream.head(100).images(torch.arange(6))) == wanted
        seen = [
            read_all(stream, 6 // num_processes, num_processes=num_processes, process_index=index)
            for index in range(num_processes)
        ]
        assert sorted(sum(seen, [])) == wanted
    assert len(open_tiny(folders["one"], max_images=100).head(100)) == 7
    assert open_tiny("digits", image_size=8, max_images=9).num_images == 9


def test_channels_and_size_are_those_of_the_options(folders):
    assert open_tiny(folders["one"], image_size=5, channels=3).head(2).images(torch.arange(2)).shape == (2, 3, 5, 5)


def test_fingerprint_sees_what_is_known(folders, tmp_path):
    variants = [{}, {"image_size": 3}, {"channels": 3}, {"labels": ["a"]}, {"labels": ["a", "b"]}, {"labels": ["b", "a"]}]
    variants += [{"max_images": 3}, {"class_conditional": False}]
    fingerprints = [open_tiny(folders["one"], **options).fingerprint for options in variants]
    assert len(set(fingerprints)) == len(variants) and all(len(fingerprint) == 64 for fingerprint in fingerprints)
    other = save(tmp_path / "other", make_dataset([9, 1, 2, 3, 4, 5, 6]))
    assert open_tiny(other).fingerprint not in fingerprints
    same = save(tmp_path / "same", make_dataset(list(range(7))))
    assert open_tiny(same, shuffle_buffer=7).fingerprint == fingerprints[0]


# Mistakes


@pytest.mark.parametrize("bad", [7, -1, None])
@pytest.mark.parametrize("options", [{}, {"labels": ["a"]}, {"labels": ["a"], "class_conditional": False}])
def test_bad_label_is_named(tmp_path, bad, options):
    folder = save(tmp_path / "bad", make_dataset(list(range(6)), labels=[0, 1, 2, 0, bad, 0]))
    reader = open_tiny(folder, **options).reader(seed=0, batch_size=6)
    message = refusal(reader.read, 0, 0)
    problem = "is missing" if bad is None else "is outside 0..2"
    assert f"label {bad} at row 4 of split 'train' {problem}" in message and "'label'" in message


@pytest.mark.parametrize(("labels", "kind"), [(["x", "y"], "string"), ([4, 5], "int64")])
def test_labels_of_other_types_are_refused(tmp_path, labels, kind):
    folder = save(tmp_path / "plain", make_dataset([0, 1], labels=labels, feature=datasets.Value(kind)))
    message = refusal(open_tiny, folder)
    assert f"'label' is of type {kind}" in message and "leave out `streaming`" in message
    assert open_tiny(folder, class_conditional=False).class_names is None


def test_broken_images_are_named(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for value in range(5):
        picture(value).save(folder / f"{value}.png")
    (folder / "3.png").write_text("this is text")
    message = refusal(open_tiny(str(folder)).reader(seed=0, batch_size=5).read, 0, 0)
    assert "row 3 of split 'train'" in message and f"'{folder / '3.png'}'" in message and "`source`" in message
    (folder / "0.png").write_bytes(b"")
    assert f"'{folder / '0.png'}'" in refusal(open_tiny, str(folder))
    records = make_dataset([0, 1, 2]).cast_column("image", datasets.Image(decode=False))[:]
    records["image"][1] = {"bytes": b"GIF89a", "path": None}
    broken = datasets.Dataset.from_dict(records).cast_column("image", datasets.Image(decode=False))
    (tmp_path / "shop").mkdir()
    broken.cast_column("label", datasets.ClassLabel(names=NAMES)).cast_column("image", datasets.Image()).to_parquet(
        str(tmp_path / "shop" / "train.parquet")
    )
    message = refusal(open_tiny(str(tmp_path / "shop")).reader(seed=0, batch_size=3).read, 0, 0)
    assert "the image at row 1 of split 'train'" in message and "cannot be decoded" in message


def test_a_file_that_breaks_off_is_one_line(tmp_path):
    folder = write_parquet(tmp_path / "cut", [FIRST_IMAGES, 3])
    path = tmp_path / "cut" / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    message = refusal(open_tiny, folder)
    assert f"source is {folder!r}, which could not be read: the parquet file {str(path)!r} is truncated" in message


def test_a_reader_that_failed_is_not_out_of_step(tmp_path):
    folder = save(tmp_path / "bad", make_dataset(list(range(6)), labels=[0, 1, 2, 0, 9, 0]))
    reader = open_tiny(folder).reader(seed=0, batch_size=6)
    assert refusal(reader.read, 0, 0) == refusal(reader.read, 0, 0)


def test_empty_streams_end(tmp_path, folders):
    empty = save(tmp_path / "empty", make_dataset([0, 1]).select([]))
    assert "no rows" in refusal(open_tiny, empty)
    two = save(tmp_path / "two", make_dataset([0, 3]))
    assert "['b'], classes that have no image in split 'train'" in refusal(open_tiny, two, labels=["b"])
    stream = open_tiny(two)
    message = refusal(stream.reader, seed=0, batch_size=1, num_processes=3, process_index=0)
    assert "2 images for 3 processes" in message
    uneven = open_tiny(write_parquet(tmp_path / "hole", [3, 0]))
    reader = uneven.reader(seed=0, batch_size=1, num_processes=2, process_index=1)
    for position in (0, 8):
        assert "process 1 of 2 finds no image" in refusal(reader.read, position, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"channels": 2}, "channels is 2"),
        ({"max_images": 0}, "max_images is 0"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"labels": ["zzzzz"]}, "the names are a, b, c"),
        ({"label_column": "kind"}, "label_column is 'kind'"),
        ({"image_column": "label"}, "of type ClassLabel"),
        ({"split": "test"}, "choose from train"),
        ({"source": "./missing"}, "give a folder"),
    ],
)
def test_wrong_options_are_refused(folders, options, words):
    assert words in refusal(open_tiny, **({"source": folders["one"]} | options))


def test_process_ends_quietly(folders, private_datasets_cache):
    """Threads that still read would keep the process or make it crash, and warnings would be seen on stderr."""
    program = (
        "import sys, threading; from hf_ddpm.data.open_stream import open_stream; "
        "reader = open_stream(sys.argv[1], 'train', image_size=2).reader(seed=0, batch_size=3); "
        "print(len(reader.read(0, 0).images), [thread.name for thread in threading.enumerate() if not thread.daemon])"
    )
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"HF_DATASETS_CACHE": str(private_datasets_cache), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", program, folders["even"]]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "3 ['MainThread']\n", "")
