"""Stop a run whose loss is not finite, before the step that would ruin its weights, and record the samples of the step."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from accelerate import Accelerator
from torch import Tensor

from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.distributed import gather
from hf_ddpm.runtime.files import write_whole


@dataclass
class StepRecord:
    """What went into one optimizer step on this process."""

    micro_steps: list[dict[str, Tensor]] = field(default_factory=list)
    """Tensors of each micro-step by name."""

    def add(self, **tensors: Tensor) -> None:
        """Add a micro-step: `sample_ids` (B,) int64, `loss` () float32 and other tensors by name."""
        self.micro_steps.append(tensors)


def check_finite(
    step: int, loss: float, grad_norm: float, record: StepRecord, accelerator: Accelerator, folder: RunFolder
) -> None:
    """Raise `FloatingPointError` before a step that would ruin the weights, after `step` steps; fp16 has its loss scaler.

    Every process calls this, with the same `loss` and `grad_norm`, so that all raise or none, and the `record` of its own
    samples; those of all processes are written to `folder.diverged(step)`.
    """
    if math.isfinite(loss) and (accelerator.scaler is not None or math.isfinite(grad_norm)):
        return
    process = accelerator.process_index
    mine = [
        {"process": process, "micro_step": number, **{name: value.tolist() for name, value in entry.items()}}
        for number, entry in enumerate(record.micro_steps)
    ]
    micro_steps = gather(mine, accelerator)
    path = folder.diverged(step)
    if accelerator.is_main_process:
        # JSON has no NaN and no infinity: these numbers are written as text.
        values = {"step": step, "loss": str(loss), "grad_norm": str(grad_norm)}
        for entry in micro_steps:
            entry["loss"] = str(entry["loss"])
        write_whole(path, json.dumps({**values, "micro_steps": micro_steps}, indent=1) + "\n")
    raise FloatingPointError(
        f"step {step}: the loss is {loss} and the gradient norm {grad_norm}; the step was not applied, the "
        f"last checkpoint is good. The samples of the step are listed in {path}. Try a lower --optim.learning_rate, or "
        "--mixed_precision fp32"
    )
