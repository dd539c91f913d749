"""The sampling defaults of a saved pipeline, as a model card says them: `describe_defaults(read_defaults(index))`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ddpm.markdown import counted, interval_text
from hf_ddpm.runtime.reading import read_json

KINDS = {"num_inference_steps": int, "guidance_scale": int | float, "guidance": str, "guidance_interval": list}


def read_defaults(index: Mapping[str, Any]) -> dict[str, Any]:
    """Those in a model_index.json, {} = none; TypeError: they are of other kinds."""
    saved = index.get("sampling_defaults") or {}
    interval = saved.get("guidance_interval", [0, 1]) if isinstance(saved, dict) else None
    is_known = isinstance(saved, dict) and saved.keys() <= KINDS.keys()
    is_pair = isinstance(interval, list) and len(interval) == 2 and all(isinstance(it, int | float) for it in interval)
    if not (is_known and is_pair and all(isinstance(value, KINDS[name]) for name, value in saved.items())):
        raise TypeError("these are not the sampling defaults of a pipeline")
    return dict(saved)


def defaults_of_folder(folder: Path) -> dict[str, Any]:
    """Those of a saved pipeline; {} = it has none, is damaged, or there is no pipeline."""
    try:
        return read_defaults(read_json(folder / "model_index.json"))
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def describe_defaults(saved: Mapping[str, Any]) -> str:
    """The defaults in words, such as `15 steps, guidance scale 2, for 0.2 <= t / T < 0.8`."""
    words = [counted(saved["num_inference_steps"], "step")] if "num_inference_steps" in saved else []
    words += [f"guidance scale {saved['guidance_scale']:g}"] if "guidance_scale" in saved else []
    words += [saved["guidance"]] if "guidance" in saved else []
    words += [interval_text(saved["guidance_interval"])] if "guidance_interval" in saved else []
    return ", ".join(words)
