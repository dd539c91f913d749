"""Compile the network of a run with torch.compile, in place: the names of its weights stay."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from hf_ddpm.models.conv_denoiser import ConvLayer
from hf_ddpm.text import one_line

BLOCKS = (ResnetBlock2D, Attention, ConvLayer)
"""The blocks of which networks have many."""
BACKEND = "inductor"


def check_compiling(mode: str, device: torch.device, *, backend: str = BACKEND) -> None:
    """Compile one addition; a `ValueError` if that fails, for want of a C++ compiler for example."""

    def add_one(number: torch.Tensor) -> torch.Tensor:
        return number + 1

    if mode == "none":
        return
    try:
        torch.compile(add_one, backend=backend)(torch.zeros(2, device=device))
    except Exception as error:  # of dynamo, of its backend, or of a compiler that it starts
        reason = one_line(str(error).strip().split("\n")[0], 200)
        raise ValueError(f"compile is {mode!r}: torch.compile does not work here, use none ({reason})") from None


def compile_network(network: nn.Module, mode: str, *, backend: str = BACKEND) -> None:
    """Let a network be compiled when it is first called.

    Args:
        network: on its device.
        mode: `none`, `full` (all of the network at once), or `regional` (each of its `BLOCKS`; those of one kind and shape
            share their code, so that there is less to compile).
        backend: of torch.compile.
    """
    if mode == "full":
        network.compile(backend=backend)
    elif mode == "regional":
        blocks = [module for module in network.modules() if isinstance(module, BLOCKS)]
        if not blocks:
            raise ValueError(f"compile is {mode!r}: the network has no blocks that can be compiled one by one, give full")
        # A block whose shape is one too many would silently stay as it is.
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, len(blocks))
        for block in blocks:
            block.compile(backend=backend, dynamic=False)
