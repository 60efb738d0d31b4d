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
    """How to train."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epochs: int = 100
    """At most."""
    batch_size: int = 256
    """Windows per step, or pairs for models that train on pairs. In-batch negatives come from them: compare models at
    equal batch sizes."""
    optimizer: OptimizerName = "adamw"
    """'adamw', or 'lazy': AdamW that leaves rows of id tables alone that a step did not use, for wide tables of many
    rows (see pipelines.training.optimizers)."""
    lr: float = 1e-3
    """constant."""
    weight_decay: float = 0.1
    """On matrices and tables; never on biases, LayerNorm gains and other vectors."""
    clip: float | None = 5.0
    """Largest norm of the gradient; None = no clipping."""
    patience: int = 10
    """Epochs without a strictly better `monitor` after which training stops."""
    monitor: str = "NDCG@10"
    """Validation metric that names the best epoch: HR@K, NDCG@K, Recall@K, Precision@K, MRR@K or MAP@K."""
    eval_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    eval_batch_size: int = 256
    """Users scored at a time."""
    precision: Precision = "float32"
    """'bfloat16' runs the model in mixed precision; losses and scores stay float32."""
    start_from: str | None = None
    """a finished run whose weights training starts from (runs/warm_start.py): its folder, seen from where the run's own
    folder stands, so that a name alone is one beside it; {seed} is the run's seed."""

    def __post_init__(self) -> None:
        """Refuse values no run can have."""
        for name in ("epochs", "batch_size", "patience", "eval_every", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.lr > 0 or not self.weight_decay >= 0 or not (self.clip is None or self.clip > 0):
            raise ConfigError(
                f"train: lr {self.lr} must be > 0, weight_decay {self.weight_decay} >= 0, clip {self.clip} > 0 or null"
            )
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
        """Return the list lengths of validation: 10, 20 and that of the monitor."""
        return tuple(sorted({10, 20, int(self.monitor.partition("@")[2])}))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics of validation: HR, NDCG and that of the monitor."""
        return tuple(dict.fromkeys((*DEFAULT, self.monitor.partition("@")[0])))
