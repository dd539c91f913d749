"""What a user may have meant by a name: `explain_unknown("lr", options)` gives "here it is --optim.learning_rate"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

SAME_AS: dict[str, tuple[str, ...]] = {
    # train_unconditional.py of diffusers
    "dataset_name": ("data.source",),
    "train_data_dir": ("data.source",),
    "model_config_name_or_path": ("model.preset",),
    "resolution": ("data.image_size",),
    "random_flip": ("data.horizontal_flip",),
    "train_batch_size": ("data.batch_size",),
    "eval_batch_size": ("sampling.batch_size",),
    "num_epochs": ("num_train_epochs",),
    "save_images_epochs": ("logging.sample_every_steps",),
    "save_model_epochs": ("checkpoint.every_steps",),
    "checkpointing_steps": ("checkpoint.every_steps",),
    "checkpoints_total_limit": ("checkpoint.keep",),
    "resume_from_checkpoint": ("resume",),
    "adam_beta1": ("optim.betas",),
    "adam_beta2": ("optim.betas",),
    "adam_weight_decay": ("optim.weight_decay",),
    "ema_max_decay": ("ema.decay",),
    "hub_model_id": ("hub.repo_id", "repo_id"),
    "hub_private_repo": ("hub.private", "private"),
    "logger": ("logging.trackers",),
    "report_to": ("logging.trackers",),
    "ddpm_num_steps": ("schedule.num_train_timesteps",),
    "ddpm_num_inference_steps": ("evaluation.num_inference_steps", "num_inference_steps"),
    "ddpm_beta_schedule": ("schedule.beta_schedule",),
    # Words of other trainers and samplers
    "lr": ("optim.learning_rate",),
    "epochs": ("num_train_epochs",),
    "steps": ("max_train_steps", "num_inference_steps", "sampling.num_inference_steps"),
    "num_steps": ("max_train_steps", "num_inference_steps", "sampling.num_inference_steps"),
    "iterations": ("max_train_steps",),
    "bs": ("data.batch_size", "batch_size", "sampling.batch_size"),
    "dataset": ("data.source",),
    "data_dir": ("data.source",),
    "data_path": ("data.source",),
    "size": ("data.image_size",),
    "flip": ("data.horizontal_flip",),
    "augment": ("data.horizontal_flip",),
    "random_crop": ("data.max_shift",),
    "vflip": ("data.vertical_flip",),
    "bit_depth": ("data.pixel_type",),
    "workers": ("num_threads",),
    "threads": ("num_threads",),
    "precision": ("mixed_precision", "dtype", "sampling.dtype"),
    "outdir": ("output_dir", "output"),
    "out": ("output_dir", "output"),
    "o": ("output_dir", "output"),
    "n": ("num_images",),
    "num_samples": ("num_images",),
    "cfg": ("guidance_scale", "sampling.guidance_scale"),
    "cfg_scale": ("guidance_scale", "sampling.guidance_scale"),
    "w": ("guidance_scale", "sampling.guidance_scale"),
    "sampler": ("scheduler", "sampling.scheduler"),
    "classes": ("class_labels", "data.labels"),
    "pretrained_model_name_or_path": ("model", "model.init_from"),
    "checkpoint": ("model",),
    "ckpt": ("model", "resume"),
}
"""Names of other programs, and the options that do the same here."""

NOT_HERE = {
    "use_ema": "the weights are averaged by default (`ema.decay` null switches it off), leave it out",
    "overwrite_output_dir": "no run is overwritten, name another `output_dir` or continue with `resume` auto",
    "cache_dir": "set HF_HOME in the environment",
    "dataset_config_name": "give a folder with the files of that configuration as `data.source`",
    "center_crop": "images are always cropped at the center, leave it out",
    "dataloader_num_workers": "images are decoded once, before training, leave it out",
    "adam_epsilon": "it is 1e-8, leave it out",
    "hub_token": "log in with `hf auth login`, leave it out",
    "logging_dir": "logs are written to `output_dir`, leave it out",
    "local_rank": "start several processes with torchrun, leave it out",
    "enable_xformers_memory_efficient_attention": "attention is that of PyTorch, leave it out",
    "preserve_input_precision": "images have 8 bits per channel, leave it out",
}
"""Names of diffusers' train_unconditional.py for which there is no option here, and what to do."""


def explain_unknown(name: str, options: Sequence[str], dashes: str = "--") -> str:
    """What to do about an option that does not exist, as the rest of a sentence.

    Args:
        name: as given, without dashes.
        options: names of all options of the program.
        dashes: what options begin with, where the name was given.
    """
    own = _plain(name)
    translations = {_plain(foreign): known for foreign, known in SAME_AS.items()}
    translated = translations.get(own) or translations.get(_plain(_last(name)), ())
    same = [option for option in translated if option in options]
    same = same or [option for option in options if own in (_plain(option), _plain(_last(option)))]
    same = same or [option for option in options if _plain(_last(name)) == _plain(_last(option))]
    if same:
        return f"here it is {_or(same, dashes)}"
    remark = {_plain(foreign): remark for foreign, remark in NOT_HERE.items()}.get(own)
    if remark is not None and {_last(option) for option in re.findall(r"`([\w.]+)`", remark)} <= set(map(_last, options)):
        return re.sub(r"`([\w.]+)`", rf"{dashes}\1", remark)
    near = nearest(name, options) or nearest(_last(name), options)
    return f"did you mean {_or(near, dashes)}?" if near else "--help all lists the options"


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The most similar names, at most three: by their letters alone, the last part of a dotted name, or a word of it."""
    own, likeness = _plain(name), {}
    for other in names:
        parts = (_plain(other), _plain(_last(other)))
        ratio = max(difflib.SequenceMatcher(None, own, part).ratio() for part in parts)
        has_word = len(own) > 3 and any(own in part or part in own for part in parts if len(part) > 3)
        likeness[other] = max(ratio, 0.75) if has_word else ratio
    best = sorted((other for other in likeness if likeness[other] >= 0.65), key=lambda other: -likeness[other])[:3]
    return [other for other in best if likeness[other] > likeness[best[0]] - 0.15]


def _or(options: Sequence[str], dashes: str) -> str:
    return " or ".join(f"{dashes}{option}" for option in options)


def _plain(name: str) -> str:
    """The letters and digits of a name: batch_size, batch-size and BatchSize are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _last(name: str) -> str:
    return name.rpartition(".")[2]
