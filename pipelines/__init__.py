"""The verbs, from the command line and from Python; the only place that knows both encoders and models.

What a notebook needs is one import away, such as `from pipelines import read_dataset, train` (docs/python.md). The
names come from `pipelines.api` when they are first used: `import pipelines` alone does not wait for torch.
"""

from typing import TYPE_CHECKING

__all__ = [
    "ConfigError",
    "Dataset",
    "Evaluation",
    "ExtractReport",
    "FeatureFile",
    "Hit",
    "MediaError",
    "Run",
    "StoreError",
    "evaluate",
    "extract_features",
    "open_features",
    "open_run",
    "read_dataset",
    "recommend",
    "similar_items",
    "train",
]

if TYPE_CHECKING:
    from pipelines.api import *  # its `__all__`, which a test holds equal to this one
else:  # hidden from type checkers, which would take any name for one that exists

    def __getattr__(name: str) -> object:
        """Return a name of `pipelines.api`, which is imported now."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module("pipelines.api"), name)
        return value

    def __dir__() -> list[str]:
        """Return what is there and what `pipelines.api` will bring."""
        return sorted({*globals(), *__all__})
