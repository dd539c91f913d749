"""The machine, versions and command behind a result: `describe_environment(device, num_processes)`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "hf_ddpm",
    "torch",
    "diffusers",
    "accelerate",
    "datasets",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "numpy",
)


def describe_environment(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Everything besides the options that the bits of a run depend on, as JSON values.

    Args:
        device: where the networks compute.
        num_processes: processes of the run.
    """
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    return {
        "command": sys.argv,
        "commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cpu_count": os.cpu_count(),
        "device": str(device),
        "gpu": gpu,
        "num_processes": num_processes,
        "num_threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _git_commit() -> str | None:
    """The commit of the checkout that this file is in; None = the package is installed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
