"""Images per second of reading and decoding, seconds of shuffling, and memory of a table of decoded images.

    python tests/benchmarks/loader.py

Reads batches of RGB noise in random order, alone and with scaling and flips, as every step of a training does; decodes PNG
and JPEG files one after the other and in threads, in turn; and compares the memory of the process with the arithmetic, which
it repeats for a million images. Numbers are medians over rounds. Needs Linux for the memory.
"""

import argparse
import io
import re
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from measuring import print_machine, print_table
from PIL import Image

from hf_ddpm.data.batches import epoch_permutation, flip_horizontally, to_model_range
from hf_ddpm.data.decode import decode_image
from hf_ddpm.data.decoded_cache import read_or_build
from hf_ddpm.data.in_order import PIXELS_FOR_THREADS, InOrder
from hf_ddpm.data.table import DECODING_BATCH, ImageTable, load_images
from hf_ddpm.image_shape import size_text
from hf_ddpm.markdown import counted
from hf_ddpm.runtime.threads import available_threads

GOAL = 20_000
"""Images per second, of 32 x 32 x 3."""
KINDS = (("PNG", (32, 32), 256), ("JPEG", (500, 375), 32))
"""Files that are decoded: format, width and height in pixels, and their number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_images", type=int, default=60_000, help="of the table")
    parser.add_argument("--num_files", type=int, default=5_000, help="of the folder whose opening is measured")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_threads", type=int, default=available_threads(), help="of decoding; default: all cores")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.num_images < arguments.batch_size:
        parser.error(f"--num_images is {arguments.num_images}: give at least a batch, {arguments.batch_size}")
    torch.set_num_threads(arguments.num_threads)

    datasets.disable_progress_bars()
    threads = counted(arguments.num_threads, "thread")
    print_machine(threads, f"batch {arguments.batch_size}", counted(arguments.rounds, "round"))
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        before = resident()
        table = build_table(Path(folder) / "pixels.arrow", arguments.num_images, arguments.image_size)
        opened = resident()
        measure_reading(table, arguments)
        read = resident()
        measure_decoding(arguments.rounds, arguments.image_size)
        measure_shuffling(arguments.rounds)
        print_memory(table, before, opened, read)
        print_projection(table, while_opened(Path(folder) / "files", arguments.num_files))


def build_table(place: Path, num_images: int, image_size: int) -> ImageTable:
    """A table of RGB noise with labels, whose pixels are in a file."""
    length, rng = 3 * image_size**2, np.random.default_rng(0)

    def rows() -> Iterator[dict[str, list[bytes]]]:
        for start in range(0, num_images, DECODING_BATCH):
            shape = (min(DECODING_BATCH, num_images - start), length)
            yield {"pixels": [row.tobytes() for row in rng.integers(0, 256, shape, dtype=np.uint8)]}

    features = datasets.Features({"pixels": datasets.Value("binary")})
    return ImageTable(
        pixels=read_or_build(place, features, num_images, rows, "writing", length),
        channels=3,
        image_size=(image_size, image_size),
        class_names=[str(number) for number in range(10)],
        class_labels=torch.arange(num_images) % 10,
    )


def measure_reading(table: ImageTable, arguments: argparse.Namespace) -> None:
    """Print the images per second of an epoch, read in random order."""
    size = arguments.batch_size
    reader, mask = table.reader(seed=0, batch_size=size), torch.rand(size) < 0.5
    ways: dict[str, Callable[[int], object]] = {
        "read": lambda seen: reader.read(seen, 0),
        "read, scale": lambda seen: to_model_range(reader.read(seen, 0).images),
        "read, scale, flip": lambda seen: flip_horizontally(to_model_range(reader.read(seen, 0).images), mask),
    }

    def epoch(way: Callable[[int], object]) -> None:
        for seen in range(0, len(table) - size + 1, size):
            way(seen)

    seconds = in_turn({name: partial(epoch, way) for name, way in ways.items()}, arguments.rounds)
    count = len(table) // size * size
    rows = [[name, f"{count / each:,.0f}", f"{count / each / GOAL:.1f}"] for name, each in seconds.items()]
    shape = f"{size_text(table.image_size)} x {table.channels}"
    print_table([f"{len(table):,} images of {shape}", "images/s", f"of the goal of {GOAL:,}"], rows)


def measure_decoding(rounds: int, image_size: int) -> None:
    """Print the images per second of decoding, one after the other and in threads, and which of both a table takes."""
    in_order, rows = InOrder(), []
    decode = partial(decode_image, image_size=(image_size, image_size), channels=3)
    for kind, (width, height), count in KINDS:
        images = [encoded(kind, (width, height), seed) for seed in range(count)]
        ways = {
            "one": lambda images=images: list(in_order(decode, images, 0)),
            "threads": lambda images=images: list(in_order(decode, images, PIXELS_FOR_THREADS)),
        }
        assert ways["one"]() == ways["threads"]()
        seconds = in_turn(ways, rounds)
        takes_threads = width * height >= PIXELS_FOR_THREADS and torch.get_num_threads() > 1
        ratio, taken = seconds["one"] / seconds["threads"], "threads" if takes_threads else "one"
        speeds = [f"{count / seconds[way]:,.0f}" for way in ways]
        rows.append([f"{kind}, {width} x {height}", *speeds, f"{ratio:.2f}", taken])
    print_table(["images/s of decoding", "one after the other", "in threads", "ratio", "taken"], rows)


def measure_shuffling(rounds: int) -> None:
    """Print the seconds of the order of one epoch, and its memory."""
    rows = []
    for count in (60_000, 1_000_000):
        seconds = in_turn({"": partial(epoch_permutation, count, 0, 0)}, rounds)[""]
        rows.append([f"{count:,}", f"{1000 * seconds:.1f}", f"{8 * count / 1e6:.1f}"])
    print_table(["images in an epoch", "ms of shuffling", "MB"], rows)


def while_opened(folder: Path, num_files: int) -> float:
    """Bytes per image at the peak while a folder of image files is opened: paths, sizes and times."""
    folder.mkdir()
    file = encoded("PNG", (8, 8), 0)["bytes"]
    for number in range(num_files):
        (folder / f"{number:07}.png").write_bytes(file)
    load_images(str(folder), "train", image_size=8)
    tracemalloc.start()
    load_images(str(folder), "train", image_size=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / num_files


def print_memory(table: ImageTable, before: dict[str, int], opened: dict[str, int], read: dict[str, int]) -> None:
    """Print what a table adds to the memory of the process."""
    rows = [
        [name, *(f"{(after[kind] - before[kind]) / 1e6:.1f}" for kind in ("RssAnon", "RssFile"))]
        for name, after in (("opened", opened), ("every image read", read))
    ]
    print_table([f"MB more with {len(table):,} images", "of its own", "of the file, kept while there is room"], rows)


def print_projection(table: ImageTable, bytes_per_file: float) -> None:
    """Print the arithmetic of its memory for a table and for a million larger images."""
    shapes = [(len(table), table.image_size[0]), (1_000_000, 64)]
    parts = {
        "labels (int64)": lambda count, size: 8 * count,
        "orders of two epochs (int64)": lambda count, size: 16 * count,
        "positions of the images (int64), if some are left out": lambda count, size: 8 * count,
        "while a folder of image files is opened, as measured": lambda count, size: bytes_per_file * count,
        "file of pixels, mapped": lambda count, size: count * (3 * size**2 + 4),
    }
    header = ["MB by arithmetic", *(f"{count:,} of {size} x {size} x 3" for count, size in shapes)]
    print_table(header, [[name, *(f"{part(*shape) / 1e6:,.1f}" for shape in shapes)] for name, part in parts.items()])


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The seconds of each way, the median over rounds in which they take turns, after a first one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def encoded(kind: str, size: tuple[int, int], seed: int) -> dict[str, bytes | None]:
    """A file of smooth RGB noise, as a dataset holds it."""
    width, height = size
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, kind)
    return {"bytes": file.getvalue(), "path": None}


def resident() -> dict[str, int]:
    """Bytes of this process in memory: its own (RssAnon) and of files that are mapped (RssFile)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return {name: 1024 * int(amount) for name, amount in re.findall(r"(Rss\w+):\s+(\d+) kB", status)}


if __name__ == "__main__":
    main()
