"""Read the images of a diffusion model, and refuse what cannot work before they are decoded: `load_data(config, ...)`."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from accelerate import PartialState

from hf_ddpm.data.given import load_given
from hf_ddpm.data.load_splits import decode_options, decode_sources
from hf_ddpm.data.open_splits import check_classes, open_sources
from hf_ddpm.data.open_stream import open_stream
from hf_ddpm.image_shape import ImageSize
from hf_ddpm.models.unet import UNET_PRESETS, check_unet
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.training.build import build_schedule, null_label_of
from hf_ddpm.training.compiling import check_compiling
from hf_ddpm.training.init_from import check_base_model
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.own_network import check_embeddings, notice_of_code
from hf_ddpm.training.own_objects import OwnObjects, check_same_data
from hf_ddpm.training.preview import HELD_OUT_IMAGES
from hf_ddpm.training.run import Data

logger = logging.getLogger(__name__)


def load_data(config: TrainConfig, objects: OwnObjects, processes: PartialState) -> Data:
    """Read the train split and, if named, the held-out one (None = not), refusing what it can before decoding."""
    check_compiling(str(config.compile), processes.device)
    build_schedule(config)
    data = config.data
    if config.base is not None and not config.base.is_checkpoint:
        with processes.local_main_process_first(), Progress(f"loading {config.base.name}"):
            check_base_model(config.base)
    if objects.network is not None:
        image_size, channels = objects.network.config.sample_size, objects.network.config.in_channels
    else:
        arguments = config.network_arguments(image_size=data.image_size)
        check_unet(arguments, config.architecture)
        is_open = config.base is None and config.model.preset in UNET_PRESETS
        image_size, channels = arguments["sample_size"], data.channels if is_open else arguments["in_channels"]
    load = partial(_take_given, objects.dataset) if objects.dataset is not None else _decode_splits
    with processes.local_main_process_first():
        images, test_images = (_open_streams if data.streaming else load)(config, image_size, channels)
    if objects.dataset is not None:
        check_same_data(images.fingerprint, processes)
    if objects.network is not None:
        num_classes = None if images.class_names is None else len(images.class_names)
        check_embeddings(objects.network, num_classes, null_label_of(config, images))
        if processes.is_main_process and (notice := notice_of_code(objects.network)):
            logger.warning("%s", notice)
    return images, test_images


def _take_given(dataset: Any, config: TrainConfig, image_size: ImageSize, channels: int | None) -> Data:
    train, test = load_given(dataset, config.data, image_size=image_size, channels=channels)
    config.resolve_class_dropout(conditional=train.class_names is not None)
    return train, test


def _decode_splits(config: TrainConfig, image_size: ImageSize, channels: int | None) -> Data:
    sources = open_sources(config.data)
    config.resolve_class_dropout(conditional=sources[0].class_names is not None)
    return decode_sources(config.data, sources, image_size=image_size, channels=channels)


def _open_streams(config: TrainConfig, image_size: ImageSize, channels: int | None) -> Data:
    data = config.data
    options = {**data.column_options(), **decode_options(data), "image_size": image_size}
    train_options = {**options, "channels": channels, "max_images": data.max_images}
    if data.shuffle_buffer is not None:
        train_options["shuffle_buffer"] = data.shuffle_buffer
    train = open_stream(data.source, data.train_split, **train_options)
    test = None
    if data.test_split is not None:
        test = open_stream(data.source, data.test_split, channels=train.channels, settled=train.settled, **options)
    config.resolve_class_dropout(conditional=train.class_names is not None)
    check_classes(data, train, test)
    return train, None if test is None else test.head(HELD_OUT_IMAGES)
