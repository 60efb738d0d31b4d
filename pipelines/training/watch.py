"""What a person sees of training: one line that is drawn anew, or without a terminal one line per epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.console import note
from pipelines.progress import bar, rate
from pipelines.training.fit import Progress
from pipelines.training.train_config import TrainConfig


@contextmanager
def watching(title: str, config: TrainConfig, log: Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    """Yield what `fit` takes as `progress`.

    Args:
        title: what is trained.
        config: the settings of training.
        log: hears of everything before it is shown.
    """
    with bar(title, "steps") as draw:

        def tell(at: Progress) -> None:
            log(at)
            if draw is not None:
                draw((at.epoch - 1) * at.steps + at.step, config.epochs * at.steps, _parts(at, config))
            elif at.record is not None:
                note(f"{title}: {_told(at, config)}")

        yield tell


def _parts(at: Progress, config: TrainConfig) -> list[str]:
    """Return what stands beside the bar, the most important first."""
    last = at.history[-1] if at.history else None
    validates = at.step == at.steps and at.record is None and _validated(at.epoch, config)
    parts = [f"epoch {at.epoch}/{config.epochs}"]
    parts += [f"loss {last.loss:.4g}"] if last else []
    parts += [f"{config.monitor} {last.valid[config.monitor]:.4f}"] if last and last.valid else []
    if at.best:
        parts += [f"best epoch {at.best_epoch}", f"patience {_left(at, config)}"]
    return [*parts, "validating"] if validates else parts


def _told(at: Progress, config: TrainConfig) -> str:
    record = at.record
    assert record is not None
    parts = [f"epoch {at.epoch} of {config.epochs}", f"loss {record.loss:.4g}"]
    parts += [f"{config.monitor} {record.valid[config.monitor]:.4f}" if record.valid else "not validated"]
    if at.best:
        parts += [f"best {at.best[config.monitor]:.4f} in epoch {at.best_epoch}", f"patience {_left(at, config)}"]
    unit = "sequences" if at.trains_on == "windows" else at.trains_on
    return ", ".join([*parts, rate(at.rows / max(record.train_s, 1e-9), unit)])


def _validated(epoch: int, config: TrainConfig) -> bool:
    return epoch % config.eval_every == 0 or epoch == config.epochs


def _left(at: Progress, config: TrainConfig) -> int:
    """Return how many more epochs may pass without a better one."""
    return max(0, config.patience - (len(at.history) - at.best_epoch))
