"""What one diffusion run can be told, and the checks across options that need no data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_ddpm.config import ModelConfig, MonitorConfig, ObjectiveConfig, RunConfig, ScheduleConfig, require
from hf_ddpm.models.unet import unet_arguments


@dataclass(kw_only=True)
class TrainConfig(RunConfig):
    """Train a DDPM with classifier-free guidance and save it as a CFGDDPMPipeline."""

    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    evaluation: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self):
        super().__post_init__()
        zero_terminal = self.schedule.rescale_zero_terminal_snr
        remedy = "with --schedule.rescale_zero_terminal_snr it divides by zero, take v_prediction or sample"
        prediction_type = self.objective.prediction_type
        require(not (zero_terminal and prediction_type == "epsilon"), "objective.prediction_type", prediction_type, remedy)
        self.network_arguments(image_size=self.data.image_size, channels=self.data.channels)
        if self.evaluation.every_steps is not None:
            steps, most = self.evaluation.num_inference_steps, self.schedule.num_train_timesteps
            require(steps <= most, "evaluation.num_inference_steps", steps, f"there are {most} timesteps")
            streaming = self.data.streaming
            require(
                not streaming, "evaluation.every_steps", self.evaluation.every_steps, "leave out --data.streaming for it"
            )
        if self.data.class_conditional is False:
            self.resolve_class_dropout(conditional=False)

    def network_arguments(self, **data: int | None) -> dict[str, Any]:
        """Arguments of the network; `data` are those of `unet_arguments` that follow the images.

        Raises:
            ValueError: the options of the model do not fit together.
        """
        model, learned = self.model, self.schedule.variance_type == "learned_range"
        options = {"learned_variance": learned, "architecture": model.architecture, **data}
        return unet_arguments(model.preset, model.overrides, **options)

    def resolve_class_dropout(self, conditional: bool) -> float:
        """Probability of the null label, once it is known whether the data has labels.

        Raises:
            ValueError: an option of the null label was given to a run that has none.
        """
        asked = self.objective.class_dropout_prob
        if not conditional:
            remedy = "the model is not told a class (--data.class_conditional, or no labels), set it to null"
            require(not asked, "objective.class_dropout_prob", asked, remedy)
            architecture = self.model.architecture
            remedy = "the model is not told a class (--data.class_conditional, or no labels), take unet"
            require(architecture != "class_map_unet", "model.architecture", architecture, remedy)
        probability = 0.0 if not conditional else 0.1 if asked is None else asked
        if probability == 0:
            null_embedding = self.model.null_embedding
            remedy = "this run has no null label, as class_dropout_prob is 0 or the model is unconditional"
            require(null_embedding == "learned", "model.null_embedding", null_embedding, remedy)
        return probability
