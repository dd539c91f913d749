"""What a user gives to `train` in Python beside the options: `OwnObjects(dataset=..., network=..., loss=...)`."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from diffusers import ModelMixin

from hf_ddpm.config import GIVEN_IN_PYTHON, require
from hf_ddpm.own_code import saved_name
from hf_ddpm.runtime.distributed import gather
from hf_ddpm.training.callbacks import check_callbacks
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.own_loss import Loss, check_loss
from hf_ddpm.training.own_network import check_network, config_of


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnObjects:
    """What a user gives to `hf_ddpm.training.loop.train`, where the arguments are explained; None = the options decide."""

    dataset: Any = None
    network: ModelMixin | None = None
    loss: Loss | None = None
    callbacks: tuple[Any, ...] = ()

    def check(self, config: TrainConfig) -> None:
        """Raise `ValueError` for objects that cannot work, and for options that they make meaningless."""
        objective, data, model = config.objective, config.data, config.model
        if self.dataset is not None:
            is_free = data.source == GIVEN_IN_PYTHON or not data.is_given("source")
            data.require(is_free, "source", "leave it out, as train() has got a dataset")
            data.require(not data.streaming, "streaming", "leave it out, as train() has got a dataset")
            has_network = self.network is not None or config.base is not None or model.is_given("preset")
            remedy = "name a network for these images, such as mnist28, or give train() a network"
            require(has_network, "model.preset", None, remedy)
        else:
            remedy = "give train() the images, as in train(config, dataset=...)"
            data.require(data.source != GIVEN_IN_PYTHON, "source", remedy)
        if self.network is not None:
            check_network(self.network, config)
        else:
            remedy = "give train() the network, as in train(config, network=...)"
            model.require(model.preset != GIVEN_IN_PYTHON, "preset", remedy)
        if self.loss is not None:
            check_loss(self.loss)
            for option in ("loss", "loss_weighting", "snr_gamma"):
                is_default = getattr(objective, option) == getattr(type(objective)(), option)
                objective.require(is_default, option, "leave it out, as train() has got a loss")
        check_callbacks(self.callbacks)

    def in_config(self, config: TrainConfig) -> TrainConfig:
        """The options as the run records them: without those that the objects replace."""
        config = copy.copy(config)
        if self.dataset is not None:
            config.data = copy.copy(config.data)
            config.data.source = GIVEN_IN_PYTHON
        if self.network is not None:
            config.model = copy.copy(config.model)
            config.model.preset = GIVEN_IN_PYTHON
        return config

    def new_network(self) -> ModelMixin:
        """A copy of the network, which stays as it is."""
        assert self.network is not None
        return copy.deepcopy(self.network)

    def described(self) -> dict[str, Any]:
        """What these objects are, as JSON values; the run records it, and a run that continues it is compared with that."""
        about: dict[str, Any] = {}
        if self.dataset is not None:
            splits = self.dataset.values() if isinstance(self.dataset, Mapping) else [self.dataset]
            about["dataset"] = ", ".join(dict.fromkeys(map(name_of, splits)))
        if self.network is not None:
            config = json.loads(json.dumps(config_of(self.network), default=str))
            about |= {"network": name_of(self.network), "network_code": _code_of(self.network), "network_config": config}
        if self.loss is not None:
            about |= {"loss": name_of(self.loss), "loss_code": _code_of(self.loss)}
        if self.callbacks:
            about["callbacks"] = ", ".join(map(name_of, self.callbacks))
        return about


NO_OBJECTS = OwnObjects()


def check_same_data(fingerprint: str, processes: PartialState) -> None:
    """Raise `ValueError` in all processes if one of them was given other images or labels than the main one."""
    if len(set(gather([fingerprint], processes))) > 1:
        raise ValueError("dataset: the processes have different images or labels, make them the same in every process")


def name_of(thing: Any) -> str:
    """Module and name of a function or class, or of the class of an object; the module of a program is that of its file."""
    kind = _kind_of(thing)
    module = getattr(kind, "__module__", None) or ""
    return f"{saved_name(module) if module == '__main__' else module}.{getattr(kind, '__qualname__', type(kind).__name__)}"


def _kind_of(thing: Any) -> Any:
    """The function or class behind a function, method, partial function or object."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return thing if inspect.isroutine(thing) or inspect.isclass(thing) else type(thing)


def _code_of(thing: Any) -> str | None:
    """A short hash of the text of a function or class; None = it cannot be read, as in a notebook that is closed."""
    try:
        return hashlib.sha256(inspect.getsource(_kind_of(thing)).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        return None
