"""What a training of a built-in model needs beside its plan, as a value and as the file that every rank reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nebula.checkpoint.policy import NEVER, Policy
from nebula.errors import BadInput, closest
from nebula.models.config import ErnieConfig
from nebula.models.decoders import DecoderConfig
from nebula.models.presets import trained
from nebula.plan.plain import Misfit, decode

FILE = "training.json"
STEPS, SAVES, WEIGHTS, EVALUATION = "steps.jsonl", "saves.jsonl", "weights.safetensors", "evaluation.json"
"""What a training leaves in its run folder, beside timeline.<rank>.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long and how fast to learn, and what to leave behind.

    Attributes:
        preset: name of the built-in model.
        seq_len: tokens of a sequence; 0: the preset's.
        steps: optimizer steps.
        learning_rate: highest; it rises over `warm_steps` and falls linearly to a tenth at the end.
        clip_norm: of all gradients together.
        seed: of the data; the first weights have their own (runtime.start.SEED).
        timeline_step: the step whose timeline is kept; -1: the last but one.
        evaluate: whether to predict the held-out chapter at the end.
        shape: of the model, where it is not the preset's.
        checkpoint: when to save.
        resume: whether to go on from the newest checkpoint, if there is one.
    """

    preset: str
    steps: int
    seq_len: int = 0
    learning_rate: float = 5e-4
    warm_steps: int = 10
    weight_decay: float = 0.01
    beta2: float = 0.99
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    seed: int = 0
    timeline_step: int = -1
    evaluate: bool = True
    shape: ErnieConfig | DecoderConfig | None = None
    checkpoint: Policy = NEVER
    resume: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadInput(f"steps {self.steps}: a training needs at least one")

    def rate(self, step: int) -> float:
        """The share of the learning rate at a step, from 0.

        Example:
            >>> t = Training(preset="ernie-3.0-small", steps=110)
            >>> t.rate(0), t.rate(10), round(t.rate(110), 2)
            (0.1, 1.0, 0.1)
        """
        if step < self.warm_steps:
            return (step + 1) / self.warm_steps
        return 1.0 - 0.9 * (step - self.warm_steps) / max(1, self.steps - self.warm_steps)

    @property
    def config(self) -> ErnieConfig | DecoderConfig:
        """The model that is trained."""
        config = self.shape or trained(self.preset)
        return replace(config, seq_len=self.seq_len) if self.seq_len else config

    @property
    def recorded_step(self) -> int:
        """The step whose timeline is kept, from 0."""
        return self.timeline_step if self.timeline_step >= 0 else max(0, self.steps - 2)


def save(training: Training, run_dir: Path) -> Path:
    """Writes a training into its run folder, which is made."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / FILE
    path.write_text(json.dumps(asdict(training), indent=2) + "\n")
    return path


def load(run_dir: Path) -> Training:
    """Reads the training of a run folder.

    Raises:
        BadInput: there is none, or it has other keys.
    """
    path = run_dir / FILE
    if not path.is_file():
        raise BadInput(f"{run_dir} holds no {FILE}; nebula train writes it")
    try:
        value = dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path} is not a JSON object: {error}") from None
    known = {field.name for field in fields(Training)}
    for key in value:
        if key not in known:
            raise BadInput(f"{path} has an unknown key {key!r}: {closest(key, known)}")
    if "preset" not in value:
        raise BadInput(f"{path} names no preset; nebula train writes it whole")
    for name, kind in (("checkpoint", Policy), ("shape", _kind_of_shape(value.get("shape")))):
        if value.get(name) is not None:
            value[name] = _nested(kind, name, value[name], path)
    return Training(**value)


def _kind_of_shape(value: Any) -> Any:
    """A decoder has a style."""
    return DecoderConfig if isinstance(value, dict) and "style" in value else ErnieConfig


def _nested(kind: Any, name: str, value: Any, path: Path) -> Any:
    try:
        return decode(kind, value)
    except Misfit as misfit:
        raise BadInput(f"{path}: {name}: {misfit.sentence}") from None
