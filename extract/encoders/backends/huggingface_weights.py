"""Finds and loads checkpoints of transformers, and sees to it that nothing is silently left out or made up."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from extract.encoders.backends.hub import cached, refuse_offline
from extract.encoders.spec import EncoderSpec
from extract.encoders.weights import check_keys, local_path, no_download, no_pretrained, seeded
from features.errors import ConfigError, StoreError, shortened
from features.provenance import file_sha256

# Settings of a config that change the numbers but do not show in the weights: they are part of the recipe.
SETTINGS = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "mask_ratio", "layer_scale_init_value"),
    *("use_absolute_embeddings", "use_absolute_position_embeddings", "use_relative_position_bias", "use_mask_token"),
    *("layer_norm_eps", "qkv_bias", "image_size", "patch_size", "tubelet_size", "num_frames", "use_mean_pooling"),
)


def place(spec: EncoderSpec, weights: str) -> tuple[str, str]:
    """Return (folder or hub repository, revision)."""
    if weights != "pretrained":
        path = local_path(weights)
        if not (path / "config.json").is_file():
            raise ConfigError(f"weights {weights!r} of {spec.name!r} are not a folder with config.json; check the path")
        return str(path), "main"
    if spec.weights is None:
        raise no_pretrained(spec.name)
    found = importlib.util.find_spec(spec.weights.package) if spec.weights.package else None
    if found is not None and found.submodule_search_locations:
        folder = Path(found.submodule_search_locations[0]) / "model"
        file = folder / "model.safetensors"
        if file.is_file() and file_sha256(file) == spec.weights.sha256:
            return str(folder), "main"
    found_here = cached(spec.weights.place, spec.weights.revision, ["config.json"])
    if found_here is not None and any(found_here.glob("*.safetensors")):
        return str(found_here), "main"
    refuse_offline(spec.name, spec.weights)
    return spec.weights.place, spec.weights.revision


def from_hub(spec: EncoderSpec, weights: str, read: Any) -> Any:
    """Call a library's reader and turn its errors into one line."""
    try:
        return read()
    except Exception as error:  # hub, safetensors, pickle and tokenizers each raise their own errors
        if weights == "pretrained" and spec.weights is not None:
            raise no_download(spec.name, spec.weights, error) from error
        raise StoreError(
            f"weights {weights} of {spec.name!r} cannot be read ({shortened(error, 200)}); copy them again"
        ) from error


def pretrained(
    spec: EncoderSpec, weights: str, library_class: Any, folder: str, arguments: Mapping[str, Any]
) -> nn.Module:
    """Load a checkpoint and refuse one that does not fit: the library itself would fill gaps with random numbers."""
    extra = spec.weights.extra_keys if spec.weights is not None else ()

    def read() -> Any:
        return library_class.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
        )

    with quiet(), seeded(0):
        model, report = from_hub(spec, weights, read)
    unexpected = [key for key in report["unexpected_keys"] if not key.startswith(extra)]
    reshaped = [entry[0] if isinstance(entry, tuple) else entry for entry in report["mismatched_keys"]]
    check_keys(folder, list(report["missing_keys"]), unexpected, reshaped)
    if not isinstance(model, nn.Module):
        raise StoreError(f"weights {folder} gave {type(model).__name__}, not a module; give its own checkpoint")
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's progress bar and its long table of keys; `check_keys` says the same in one line."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def settled(spec: EncoderSpec, config: Any) -> EncoderSpec:
    """Return the entry with what the config decides: the width, and the settings that go into the recipe."""
    arch = {name: getattr(config, name) for name in SETTINGS if getattr(config, name, None) is not None}
    return replace(spec, width=int(config.hidden_size), arch=arch)
