"""The section `train` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from features.errors import ConfigError, nearest
from pipelines.ranking.metrics import DEFAULT, METRICS
from pipelines.training.optimizers import OptimizerName

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of training."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epochs: int = 100
    """Largest number of epochs."""
    batch_size: int = 256
    """Windows per step, or pairs for models that train on pairs. In-batch negatives come from the batch, so compare
    models at equal batch sizes."""
    optimizer: OptimizerName = "adamw"
    """'adamw', or 'lazy': AdamW that updates only the rows of id tables that a step used, for wide tables with many
    rows (see pipelines/training/optimizers.py)."""
    lr: float = 1e-3
    """Learning rate, constant."""
    weight_decay: float = 0.1
    """Decay of matrices and tables. Biases, LayerNorm gains and other vectors never decay."""
    clip: float | None = 5.0
    """Largest norm of the gradient; null = no clipping."""
    patience: int = 10
    """Training stops after so many epochs without a strictly better `monitor`."""
    monitor: str = "NDCG@10"
    """Validation metric that decides the best epoch: HR@K, NDCG@K, Recall@K, Precision@K, MRR@K or MAP@K."""
    eval_every: int = 1
    """A validation follows every so many epochs. The last epoch is always validated."""
    eval_batch_size: int = 256
    """Users scored at a time in validation."""
    precision: Precision = "float32"
    """'bfloat16' runs the model in mixed precision; losses and scores stay float32."""
    tf32: bool = False
    """Whether a GPU may round the factors of float32 products in training to TF32 (10 bits instead of 23), which is
    faster. Rankings are never computed so."""
    start_from: str | None = None
    """Folder of a finished run whose weights training starts from (pipelines/runs/warm_start.py). It is relative to the
    parent of the run's own folder, so a bare name is a run beside it. {seed} becomes the run's seed."""

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        for name in ("epochs", "batch_size", "patience", "eval_every", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.lr > 0:
            raise ConfigError(f"train.lr is {self.lr}; it must be above 0")
        if not self.weight_decay >= 0:
            raise ConfigError(f"train.weight_decay is {self.weight_decay}; it must be at least 0")
        if not (self.clip is None or self.clip > 0):
            raise ConfigError(f"train.clip is {self.clip}; it must be above 0, or null for no clipping")
        for name, known in (("precision", Precision), ("optimizer", OptimizerName)):
            if getattr(self, name) not in get_args(known):
                raise ConfigError(f"train.{name} is {getattr(self, name)!r}; known: {', '.join(get_args(known))}")
        name, _, k = self.monitor.partition("@")
        if name not in METRICS or not k.isdecimal() or int(k) < 1 or k != str(int(k)):
            raise ConfigError(
                f"train.monitor is {self.monitor!r}; it must be NAME@K such as NDCG@10; {nearest(name, METRICS)}"
            )

    @property
    def at(self) -> tuple[int, ...]:
        """Return the list lengths of validation: 10, 20 and the one of `monitor`."""
        return tuple(sorted({10, 20, int(self.monitor.partition("@")[2])}))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics of validation: HR, NDCG and the one of `monitor`."""
        return tuple(dict.fromkeys((*DEFAULT, self.monitor.partition("@")[0])))
