"""The next batch is prepared in a thread: the same batches, in order, errors where they belong, and no thread left."""

import logging
import threading
import warnings

import numpy as np
import PIL.Image
import pytest
import torch

import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config
from hf_ddpm.data.stream import StreamReader
from hf_ddpm.data.table import TableReader
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.prefetch import Place, Prefetch
from hf_ddpm.training.task import set_up

CPU = torch.device("cpu")
PLACES = [Place(step, micro_step, 16 * step) for step in range(3) for micro_step in range(2)]


def following(place: Place) -> Place | None:
    return next(iter(PLACES[PLACES.index(place) + 1 :]), None)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


@pytest.fixture
def options(tiny_options, some_digits, tmp_path) -> list[str]:
    return [*tiny_options, some_digits, "--max_train_steps=4", f"--output_dir={tmp_path / 'run'}"]


def test_batches_come_in_order_from_one_thread_which_is_one_ahead():
    made, makers = [], set()

    def prepare(place: Place) -> int:
        made.append(place)
        makers.add(threading.current_thread())
        return PLACES.index(place)

    batches = Prefetch(prepare, following, CPU)
    assert threads() == [], "it starts with the first batch"
    for number, place in enumerate(PLACES):
        assert batches.take(place) == number
    batches.close()
    assert made == PLACES, "each once, and none past the end"
    assert len(makers) == 1 and threading.current_thread() not in makers


def test_the_next_batch_is_prepared_while_the_network_computes():
    begun = threading.Event()

    def prepare(place: Place) -> Place:
        if place == PLACES[1]:
            begun.set()
        return place

    batches = Prefetch(prepare, following, CPU)
    batches.take(PLACES[0])
    assert begun.wait(timeout=60)
    batches.close()


def test_an_error_is_raised_at_the_step_it_belongs_to():
    def prepare(place: Place) -> Place:
        if place == PLACES[2]:
            raise ValueError("the image at row 7 cannot be decoded")
        return place

    batches = Prefetch(prepare, following, CPU)
    assert [batches.take(place) for place in PLACES[:2]] == PLACES[:2]
    with pytest.raises(ValueError, match="row 7"):
        batches.take(PLACES[2])
    assert batches.take(PLACES[4]) == PLACES[4], "another place than the one prepared"
    batches.close()


@pytest.mark.parametrize("streaming", [False, True])
def test_it_is_what_the_reader_and_the_position_give(options, streaming):
    """With all that a batch can need: two micro-steps, flips, dropped labels, an epoch that ends within a batch."""
    more = [f"--data.streaming={streaming}", "--data.horizontal_flip=true", "--optim.gradient_accumulation_steps=2"]
    config = parse_config(TrainConfig, [*options, *more, "--data.batch_size=10"])
    run, _ = set_up(config, loop.training_task(config), init_distributed())
    places, place = [], Place(0, 0, 0)
    while place is not None:
        places.append(place)
        place = run.following(place)
    assert places == [Place(step, micro_step, 20 * step) for step in range(4) for micro_step in range(2)]
    taken = [run.batches.take(place) for place in places]
    run.batches.close()
    for place, batch in zip(places, taken, strict=True):
        alone = run.prepare_batch(place)
        for name, value in vars(batch).items():
            assert torch.equal(value, getattr(alone, name)), name
        assert batch.images.dtype == torch.float32 and batch.images.is_contiguous()


@pytest.mark.parametrize(("streaming", "reader"), [(False, TableReader), (True, StreamReader)])
def test_a_run_reads_its_batches_and_no_more(options, monkeypatch, streaming, reader):
    """Resumed, too: every step's batch once, in order, whatever comes between the steps."""
    read, positions = reader.read, []

    def noting(self, images_seen, micro_step):
        positions.append((images_seen, micro_step, threading.current_thread().name[:8]))
        return read(self, images_seen, micro_step)

    monkeypatch.setattr(reader, "read", noting)
    more = [f"--data.streaming={streaming}", "--checkpoint.every_steps=2", "--logging.sample_every_steps=1"]
    loop.train(parse_config(TrainConfig, [*options, *more]))
    assert positions == [(8 * step, 0, "prefetch") for step in range(4)]
    assert threads() == []
    positions.clear()
    loop.train(parse_config(TrainConfig, [*options, *more, "--max_train_steps=6", "--resume=auto"]))
    assert positions == [(32, 0, "prefetch"), (40, 0, "prefetch")]


def test_a_damaged_image_ends_the_run_at_its_step(tiny_options, tmp_path, caplog):
    """Not at the step before, during which it was read; what was trained before it is saved."""
    folder = tmp_path / "data"
    folder.mkdir()
    for row in range(16):
        pixels = np.full((8, 8), row, dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{row:02d}.png")
    (folder / "13.png").write_bytes(b"no image")
    data = [f"--data.source={folder}", "--data.streaming=true", "--data.channels=1", "--data.value_range=[0, 255]"]
    data += ["--data.shuffle_buffer=1", "--data.batch_size=2"]
    options = [*tiny_options, *data, "--max_train_steps=9", f"--output_dir={tmp_path / 'run'}"]
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="13.png.* cannot be decoded"):
        loop.train(parse_config(TrainConfig, options))
    (saved,) = RunFolder(tmp_path / "run").checkpoints()
    assert f"step {saved} is saved before the run ends" in caplog.text
    assert len(RunFolder(tmp_path / "run").read_metrics()) == saved > 0


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_no_thread_is_left_when_a_step_fails(options, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(loop, "micro_batch_loss", fail)
    with pytest.raises(type(error)):
        loop.train(parse_config(TrainConfig, options))
    assert threads() == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_for_a_cuda_device_are_pinned(options):
    config = parse_config(TrainConfig, options)
    run, _ = set_up(config, loop.training_task(config), init_distributed())
    batch = run.batches.take(Place(0, 0, 0))
    run.batches.close()
    for name in ("images", "noise", "timesteps", "class_labels"):
        assert getattr(batch, name).is_pinned(), name
        assert run.on_device(getattr(batch, name)).is_cuda


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_cuda_device_waits_for_it_once(options, monkeypatch):
    """In the finite check, before the optimizer; TF32 is allowed."""
    original, waits = loop.train_step, []

    def watched(state, run, step):
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            norm = original(state, run, step)
        torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(warning.message) for warning in caught))
        return norm

    monkeypatch.setattr(loop, "train_step", watched)
    loop.train(parse_config(TrainConfig, options))
    assert waits[1:] == [1, 1, 1]
    assert torch.get_float32_matmul_precision() == "high"
