"""Find how a model samples best, by successive halving of candidates: `tuning = tune(config)`.

A round measures every candidate with the same seeds and labels, as a sweep does, and half of them are in the next one, of
twice as many images and new seeds. The chosen one and the present defaults are then measured with other features on the
other split. Finished measurements are kept as JSON, to continue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState

from hf_ddpm.cli import dump_config
from hf_ddpm.commandline.commands import shell_command
from hf_ddpm.dcgan_pipeline import DCGANPipeline
from hf_ddpm.evaluation.features import Extractor, build_extractor, weights_digest
from hf_ddpm.evaluation.options import ReferenceDataConfig
from hf_ddpm.evaluation.protocol import data_options, open_references
from hf_ddpm.evaluation.references import MIN_IMAGES, References
from hf_ddpm.experiments.halving import best_of, difference, is_below, plan_rounds, ranked, survivors
from hf_ddpm.experiments.options import GridPoint, SweepConfig
from hf_ddpm.experiments.sweep import FREE, Models, check_same_start, count_nfe, measure_point, point_config, read_points
from hf_ddpm.experiments.tables import plain_name
from hf_ddpm.experiments.tuned_defaults import check_destination
from hf_ddpm.experiments.tuning_options import BEFORE, EVERYWHERE, TuneConfig
from hf_ddpm.pipeline import CFGDDPMPipeline, require
from hf_ddpm.results import Results
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.runtime.lock import HOLDER, LOCK, OutputLock
from hf_ddpm.runtime.signals import StopRequest, stop_requests
from hf_ddpm.sampling import can_be_guided, load_pipeline
from hf_ddpm.tuning_results import FILE, Candidate, Round, Tuning

OPTIONS = "tuning.yaml"
"""File with the options of the tuning."""
HELDOUT = "heldout"
"""Folder of the last measurements; those of the rounds are round-1, round-2, ..."""


@dataclass(kw_only=True, eq=False)
class Halving:
    """The candidates of a model, and what they are compared with."""

    config: TuneConfig
    points: list[GridPoint]
    """The first one is the present defaults."""
    calls: dict[str, int]
    """Images that the network processes for one sample, by the name of the point."""
    models: Models
    data: ReferenceDataConfig
    references: References
    """Of the rounds."""
    heldout: References
    """Of the features and the split of the end."""
    digest: str
    """sha256 of the weights of the network, in float32."""

    @property
    def rounds(self) -> list[tuple[int, int]]:
        """Candidates, and images of each seed."""
        return plan_rounds(len(self.points), self.config.num_images)

    def describe(self) -> str:
        """What it will take, in words: network calls are counted as if the most expensive candidates were kept."""
        config, rounds = self.config, self.rounds
        costs = sorted(self.calls.values(), reverse=True)
        images = [sum(costs[:count]) * num_images for count, num_images in rounds]
        end = (self.calls[BEFORE] + costs[0]) * config.num_images
        halves = ", ".join(f"{count} x {num_images:,}" for count, num_images in rounds)
        return (
            f"{len(self.points)} candidates in {len(rounds)} rounds (candidates x images: {halves}) of {config.num_seeds} "
            f"seeds each, and 2 x {config.num_images:,} at the end: the network processes at most "
            f"{(sum(images) + end) * config.num_seeds:,} images"
        )


def tune(config: TuneConfig, *, only_estimate: bool = False) -> Tuning | None:
    """Measure what is not finished yet, and return what was found; None = nothing, `only_estimate` prints what it will take.

    Every process has to call it. A ValueError names an option that is wrong, or does not fit the model, the data or the
    content of the folder, or another tuning that is writing there; SIGINT and SIGTERM raise `Stopped`.
    """
    free = (*FREE, "write_defaults", "batch_size", *(() if _file(config).is_file() else ("min_recall",)))
    check = partial(check_same_start, config, OPTIONS, {LOCK, HOLDER}, free)
    check()
    check_destination(config)
    processes = init_distributed(config.num_threads)
    if only_estimate:
        description = _prepare(config, processes).describe()
        if processes.is_main_process:
            print(description)
        return None
    with OutputLock(Path(config.output_dir), processes) as lock:
        lock.take(check)
        if _file(config).is_file():
            return Tuning.read(_file(config))
        halving = _prepare(config, processes)
        if processes.is_main_process:
            write_whole(Path(config.output_dir) / OPTIONS, dump_config(config))
            print(halving.describe(), flush=True)
        with stop_requests("the tuning ends after this batch") as stop:
            tuning = _run(halving, stop)
        if processes.is_main_process:
            write_whole(_file(config), tuning.to_json())
        processes.wait_for_everyone()
        return tuning


def _file(config: TuneConfig) -> Path:
    return Path(config.output_dir) / FILE


def _prepare(config: TuneConfig, processes: PartialState) -> Halving:
    """Load everything, and refuse what cannot work."""
    if config.num_images < MIN_IMAGES:
        raise ValueError(f"--num_images is {config.num_images}: density and coverage need at least {MIN_IMAGES}")
    device = config.device or processes.device
    pipeline = load_pipeline(config.model, device=device)
    name = config.model
    require(not isinstance(pipeline, DCGANPipeline), "model", name, "it is a GAN, which has neither steps nor guidance")
    pipeline = cast(CFGDDPMPipeline, pipeline)
    require(not pipeline.is_distilled, "model", name, "it is distilled, and its steps and guidance are built in")
    guidable = can_be_guided(pipeline)
    why = "has no null label to guide away from" if pipeline.is_conditional else "is unconditional and has no guide"
    config.check_guided(can_be_guided=guidable, why=why)
    first, last = _extractors(config, device)
    points = config.candidates(can_be_guided=guidable)
    rounds = plan_rounds(len(points), config.num_images)
    options = _round_options(config, 1, rounds[0][1])
    models = Models(options, processes)
    calls = {}
    for point in points:
        opened = models.open(point)  # which refuses what this one cannot do
        calls[point.name] = count_nfe(opened, point_config(options, point).sampling)
    data = data_options(config.data, config.model)
    end = _heldout_options(config, len(rounds))
    opened_references = [
        open_references(point_config(of, points[0]), data, opened, extractor, processes)
        for of, extractor in ((options, first), (end, last))
    ]
    return Halving(
        config=config,
        points=points,
        calls=calls,
        models=models,
        data=data,
        references=opened_references[0],
        heldout=opened_references[1],
        digest=weights_digest(pipeline.unet),
    )


def _extractors(config: TuneConfig, device: Any) -> list[Extractor]:
    """Those of the rounds and of the end; a `ValueError` if they have the same weights."""
    found = [
        build_extractor(
            features,
            inception_weights=config.inception_weights if features == "inception" else None,
            device=device,
            min_judge_accuracy=config.min_judge_accuracy,
        )
        for features in (config.features, config.heldout_features)
    ]
    remedy = f"its weights are those of {config.features}, by which the candidates were chosen, give another"
    require(found[0].digest != found[1].digest, "heldout_features", config.heldout_features, remedy)
    return found


def _round_options(config: TuneConfig, number: int, num_images: int) -> SweepConfig:
    """Of a round, counted from 1: each has seeds of its own."""
    return config.measurement(
        Path(config.output_dir) / f"round-{number}",
        features=config.features,
        reference_split=config.reference_split,
        num_images=num_images,
        first_seed=config.seed + (number - 1) * config.num_seeds,
    )


def _heldout_options(config: TuneConfig, num_rounds: int) -> SweepConfig:
    return config.measurement(
        Path(config.output_dir) / HELDOUT,
        features=config.heldout_features,
        reference_split=config.heldout_split,
        num_images=config.num_images,
        first_seed=config.seed + num_rounds * config.num_seeds,
    )


def _run(halving: Halving, stop: StopRequest) -> Tuning:
    config, points, rounds = halving.config, halving.points, list[Round]()
    plan = halving.rounds
    for number, (_, num_images) in enumerate(plan, start=1):
        options = _round_options(config, number, num_images)
        found = _measure(halving, options, points, halving.references, stop, f"round {number} of {len(plan)}")
        candidates = [_candidate(point.name, results) for point, results in found.items()]
        distance, least = _distance_of(candidates), _least_recall(halving, num_images)
        if number < len(plan):
            kept = survivors(candidates, plan[number][0], distance, least)
        else:
            best = best_of(candidates, distance, least)
            if best is None:
                highest = max(one.metrics["recall"].mean for one in candidates)
                remedy = f"the highest of the last round is {highest:.4g}: give less, the same command continues"
                raise ValueError(f"--min_recall is {config.min_recall}: no candidate has it, {remedy}")
            kept = [best]
        names = [one.name for one in kept]
        rounds.append(
            Round(
                num_images=num_images,
                seeds=[options.seed + i for i in range(config.num_seeds)],
                candidates=ranked(candidates, distance, least),
                kept=names,
            )
        )
        points = [point for point in points if point.name in names]
    return _report(halving, rounds, points[0], stop)


def _report(halving: Halving, rounds: list[Round], chosen: GridPoint, stop: StopRequest) -> Tuning:
    """Measure the chosen candidate and the defaults once more, on what has chosen neither."""
    config, before = halving.config, halving.points[0]
    options = _heldout_options(config, len(rounds))
    pair = list(dict.fromkeys([before, chosen]))
    results = _measure(halving, options, pair, halving.heldout, stop, "held-out")
    of_before, of_chosen = (_candidate(point.name, results[point]) for point in (before, chosen))
    distance = _distance_of([of_before])
    change = difference(of_chosen, of_before, distance)
    is_as_good = not is_below(difference(of_before, of_chosen, distance))
    has_fewer = is_as_good and of_chosen.network_calls < of_before.network_calls
    pipeline = halving.models.open(before)
    surroundings = describe_environment(pipeline.device, halving.references.processes.num_processes)
    return Tuning(
        verdict="gain" if is_below(change) else "fewer calls" if has_fewer else "no gain",
        distance=_distance_of(rounds[0].candidates),
        heldout_distance=distance,
        chosen=of_chosen,
        before=of_before,
        difference=change,
        sampling_defaults=_as_defaults(chosen, pipeline),
        scheduler=chosen.scheduler,
        rounds=rounds,
        floor={plain_name(name): value for name, value in results[before].floor.items()},
        protocol={
            "command": shell_command(surroundings["command"], halving.references.processes.num_processes),
            "model": config.model,
            "model_sha256": halving.digest,
            "features": config.features,
            "features_sha256": halving.references.extractor.digest,
            "split": config.reference_split,
            "heldout_features": config.heldout_features,
            "heldout_features_sha256": halving.heldout.extractor.digest,
            "heldout_split": config.heldout_split,
            "heldout_seeds": [options.seed + i for i in range(config.num_seeds)],
            "num_images": config.num_images,
            "min_recall": config.min_recall,
            "data_source": halving.data.source,
            **{name: surroundings[name] for name in ("commit", "python", "packages", "processor", "gpu", "num_threads")},
        },
    )


def _measure(
    halving: Halving, options: SweepConfig, points: Sequence[GridPoint], references: References, stop: StopRequest, what: str
) -> dict[GridPoint, Results]:
    """The results of points, by the points as they are given."""
    halving.models.config = options
    sized = {point: replace(point, num_images=options.num_images) for point in points}
    found = read_points(list(sized.values()), halving.models, references)
    results = {}
    for number, (point, with_images) in enumerate(sized.items(), start=1):
        finished = found[with_images]
        if finished is None:
            if references.processes.is_main_process:
                print(f"{what}, candidate {number} of {len(points)}: {point.name}", flush=True)
            finished = measure_point(with_images, halving.models, halving.data, references, stop)
        results[point] = finished
    references.processes.wait_for_everyone()
    return results


def _least_recall(halving: Halving, num_images: int) -> float | None:
    """`min_recall`, or less in a round of fewer images, in which that of real images is less, too."""
    least, full = halving.config.min_recall, halving.config.num_images
    if least is None or num_images == full:
        return least
    floors = [halving.references.floor(count) for count in (num_images, full)]
    assert all(floors), "both splits are large enough"
    real, of_all = (cast(Any, floor).metrics["recall"] for floor in floors)
    return least * float(real / of_all) if of_all > 0 else least


def _distance_of(candidates: Sequence[Candidate]) -> str:
    """Name of the Frechet distance."""
    return next(name for name in candidates[0].metrics if name.startswith(("fid", "fd_")))


def _candidate(name: str, results: Results) -> Candidate:
    protocol = results.protocol
    interval = protocol.get("guidance_interval")
    return Candidate(
        name=name,
        scheduler=protocol["scheduler"],
        num_inference_steps=protocol["num_inference_steps"],
        guidance_scale=protocol["guidance_scale"],
        guidance=protocol.get("guidance"),
        guidance_interval=interval and tuple(interval),
        network_calls=protocol["network_calls"],
        metrics={plain_name(name): value for name, value in results.metrics.items()},
    )


def _as_defaults(point: GridPoint, pipeline: Any) -> dict[str, Any]:
    """The options of a candidate as a pipeline saves them."""
    if point.name == BEFORE:
        return dict(pipeline.sampling_defaults)
    interval = None if point.guidance_interval == EVERYWHERE else point.guidance_interval
    values = {
        "num_inference_steps": point.num_inference_steps,
        "guidance_scale": point.guidance_scale,
        "guidance": point.guidance or pipeline.sampling_defaults.get("guidance"),
        "guidance_interval": interval and list(interval),
    }
    return {name: value for name, value in values.items() if value is not None}
