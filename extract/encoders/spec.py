"""An encoder as data: the entry that describes it, and where its weights come from.

Entries import no torch, so that `encoders` lists them at once. encoder.py holds the module that is built from one.

Letters: F feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from extract.encoders.inputs import PixelInput, TextInput
from extract.media.frames import FramePolicy
from extract.media.modality import Modality

if TYPE_CHECKING:
    from extract.encoders.encoder import Encoder


@dataclass(frozen=True)
class WeightsSource:
    """Where pretrained weights come from."""

    place: str
    """Hub repository, or 'library name' if the library knows the address."""
    revision: str
    """Commit, tag or enum name that pins the weights."""
    licence: str
    """SPDX id of the licence, or what the publisher says."""
    sha256: str = ""
    """Hash of the weights file, '' if not known. An installed `package` is used only if its file has this hash."""
    package: str = ""
    """Python package that ships the same files in its folder `model/`; used if it is installed."""
    extra_keys: tuple[str, ...] = ()
    """Prefixes of tensors that the checkpoint holds but the encoder does not need (training heads)."""


@dataclass(frozen=True)
class Backend:
    """A function of `extract.encoders.backends` that builds an encoder; its module is imported when it is called."""

    module: str
    """Module of the backends, such as 'huggingface'."""
    function: str
    """Function of that module, such as 'load_text'."""

    def __call__(self, spec: EncoderSpec, weights: str, seed: int) -> Encoder:
        """Return the encoder of an entry, with random weights of a seed or with those that `weights` names."""
        load = getattr(import_module(f"extract.encoders.backends.{self.module}"), self.function)
        built: Encoder = load(spec, weights, seed)
        return built


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder as data. To add an encoder, write such an entry for `ENCODERS` and nothing else."""

    name: str
    """Name as users type it."""
    modality: Modality
    """Kind of media the encoder reads: 'video', 'cover' or 'title'."""
    width: int
    """Length F of a feature vector."""
    backend: Callable[[EncoderSpec, str, int], Encoder]
    """Function that builds the encoder from this entry, the weights and a seed."""
    family: str
    """The kind of model that the backend builds, such as 'videomae' or 'resnet'; not part of the recipe."""
    inputs: PixelInput | TextInput
    """Input contract: how media become the encoder's input."""
    pooling: str
    """How tokens or maps become one vector, in words; part of the recipe."""
    blocks: tuple[str, ...]
    """Dotted paths of the blocks inside the model, in forward order; a list found there stands for its members."""
    paper: str
    """Paper, by its arXiv id."""
    arch: Mapping[str, Any] = field(default_factory=dict)
    """Plain arguments that the model is built with."""
    weights: WeightsSource | None = None
    """Where pretrained weights are; None for tiny encoders, which only have random ones."""
    frames: FramePolicy | None = None
    """The frames a video encoder sees unless the user picks others; None for covers and titles."""
    parameters: int = 0
    """Number of parameters, without the classifier; 0 if nobody counted them."""
    faults: tuple[str, ...] = ()
    """Names of the faults (`extract.encoders.faults.FAULTS`) that this entry has; none in `ENCODERS`."""
