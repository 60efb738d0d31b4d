"""Loads the encoders that train inside a recommender, cuts them, and joins them with what they read.

Letters: T blocks that train, S tokens, F features, W width of an encoder's vectors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from extract.encoders.cutting import Prefix, split_encoder
from extract.encoders.encoder import Encoder
from features.errors import ConfigError
from features.installation import install_extra
from features.provenance import canonical_json
from features.store import FeatureFile
from models import recommenders
from models.items.towers import Source, Tower
from models.shared.host_copy import host_copy
from models.shared.representation import ItemsConfig
from pipelines.data.split import Split
from pipelines.towers.activations import MappedActivations

if TYPE_CHECKING:  # reading recipes needs pydantic and ruamel.yaml, training does not
    from pipelines.recipe.recipe import Recipe

SEEN = ("inputs", "tokenizer", "arch", "pooling")  # entries of an encoder's recipe: what it sees, and how
OF_A_CUT = ("top_blocks", "tokens")  # entries in which interchangeable files of one encoder may differ
AT_ONCE = 256  # items whose tokens are counted at a time


class MediaSource(Source, Protocol):
    """The media of a dataset's items, decoded and preprocessed for one encoder, by dense index.

    `read` returns pixels (n, T, 3, H, W) or (n, 3, H, W) float32, or Tokens. The same items give the same numbers
    every time: with augmentation, this would be another experiment than kind 'top' over cached activations.
    """

    @property
    def fingerprint(self) -> str:
        """Return a hash of what was decoded, and how; a run does not open with another one."""


Media = Callable[["Encoder"], MediaSource]


@dataclass(frozen=True)
class Towers:
    """The encoders of a recipe that train."""

    towers: Mapping[str, Tower] = field(default_factory=dict)
    """The loaded encoders with what they read, by name."""
    facts: Sequence[Mapping[str, Any]] = ()
    """Plain data for the record, one entry per encoder: its name, weights, blocks that train, and what it reads."""


def open_towers(recipe: Recipe, split: Split, files: Sequence[FeatureFile], media: Media) -> Towers:
    """Load the encoders that a recipe trains; none for kinds that train none, and for models without items.

    Args:
        recipe: its `items` name encoders, weights and T.
        split: the split whose items are encoded.
        files: the recipe's feature files, in its order; kind 'top' reads those with activations.
        media: opens what an encoder of kind 'e2e' reads.

    Raises:
        ConfigError: an encoder without activations, or with those of other weights or of fewer blocks than T; an
            unknown encoder, weights that cannot be had, T above the number of blocks.
        StoreError: items without activations.
    """
    items = recipe.items
    if not recommenders()[recipe.model.name].uses_items:
        return Towers()
    if items.kind == "e2e":
        made = [_end_to_end(name, recipe, split, media) for name in items.encoders]
    elif items.kind == "top":
        made = [_top(name, recipe, split, files) for name in items.encoders]
    else:
        return Towers()
    if items.frames is not None and not any("frames" in facts for _, facts in made):
        raise ConfigError(
            f"items.frames is {items.frames!r}, but {', '.join(items.encoders)} reads no video; leave it out"
        )
    return Towers(dict(zip(items.encoders, (tower for tower, _ in made), strict=True)), [facts for _, facts in made])


def refuse_shallow(recipe: Recipe) -> None:
    """Raise ConfigError where `open_towers` would for want of activations or of blocks in them; load no encoder."""
    if recipe.items.kind != "top" or not recommenders()[recipe.model.name].uses_items:
        return
    files = [FeatureFile(feature.resolve()) for feature in recipe.features]
    for name in recipe.items.encoders:
        _activations_of(name, recipe.items, files)


def _end_to_end(name: str, recipe: Recipe, split: Split, media: Media) -> tuple[Tower, dict[str, Any]]:
    items = recipe.items
    seed = recipe.seed if items.encoder_seed is None else items.encoder_seed
    encoder = load_encoder(name, items.weights, seed, items.frames)
    source = media(encoder)
    prefix, top = split_encoder(encoder, items.top_blocks)
    lengths = _lengths(prefix, source, len(split.items))
    module = nn.Sequential(prefix, _AsStored(), top)
    set_up((top,), items, titles=lengths is not None)
    tower = Tower(source, module, (top,), _last_blocks(encoder, items), lengths)
    drawn = {"seed": seed} if items.weights == "random" else {}
    return tower, _facts(encoder, items) | drawn | {"media": source.fingerprint}


class _AsStored(nn.Module):
    """Puts activations in the memory order of a file: in another, convolutions round differently than in 'top'."""

    def forward(self, activations: Tensor) -> Tensor:
        return activations.contiguous()


def _top(name: str, recipe: Recipe, split: Split, files: Sequence[FeatureFile]) -> tuple[Tower, dict[str, Any]]:
    items = recipe.items
    place = _activations_of(name, items, files)
    file, made = files[place], files[place].provenance.recipe
    _refuse_frames(items, file)
    kept = made["top_blocks"]
    encoder = _encoder_of(name, file, items)
    prefix, module = split_encoder(encoder, kept, tokens=made.get("tokens"))
    if prefix.shape != file.shape[1:]:
        raise ConfigError(
            f"{file.path} holds activations of shape {file.shape[1:]} per item, but {name!r} now gives "
            f"{prefix.shape}; extract them again"
        )
    trained = module
    if kept != items.top_blocks:  # the blocks in between stay frozen
        _, trained = split_encoder(encoder, items.top_blocks, tokens=made.get("tokens"))
    activations = MappedActivations(file, split.items.ids, absent=recipe.features[place].absent)
    lengths = _lengths(prefix, activations, len(split.items))
    source = activations if lengths is None else CutTitles(activations, lengths)
    set_up((trained,), items, titles=lengths is not None)
    tower = Tower(source, module, (trained,), _last_blocks(encoder, items), lengths)
    return tower, _facts(encoder, items) | {"activations": file.provenance.fingerprint}


def _activations_of(name: str, items: ItemsConfig, files: Sequence[FeatureFile]) -> int:
    """Return which file holds an encoder's activations; of several cuts, the one with the fewest blocks that hold T.

    Raises:
        ConfigError: an unknown encoder, no such file, several that differ in more than the cut, or none with T blocks.
    """
    from extract.encoders.registry import get_encoder

    get_encoder(name)  # refuses an unknown one; entries alone need no library of media
    made = [file.provenance.recipe for file in files]
    found = [at for at, recipe in enumerate(made) if recipe.get("encoder") == name and "top_blocks" in recipe]
    if not found:
        raise ConfigError(
            f"items.kind is 'top', but none of the {len(files)} feature files holds activations of encoder {name!r}; "
            f"make one with `extract --encoders {name} --top-blocks {items.top_blocks}` and name it under features"
        )
    cuts = {made[at]["top_blocks"]: at for at in found}
    apart = {canonical_json({key: made[at][key] for key in made[at] if key not in OF_A_CUT}) for at in found}
    if len(cuts) < len(found) or len(apart) > 1:
        names = ", ".join(files[at].path.name for at in found)
        raise ConfigError(
            f"{len(found)} feature files hold activations of {name!r} ({names}) that differ in more than where they "
            "are cut; name one under features"
        )
    enough = [cut for cut in cuts if items.top_blocks != "all" and cut >= items.top_blocks]
    if enough:
        return cuts[min(enough)]
    deepest = max(cuts)
    file, blocks = files[cuts[deepest]], made[cuts[deepest]].get("blocks")  # older files do not say how many there are
    possible = items.top_blocks != "all" and (blocks is None or items.top_blocks <= blocks)
    instead = f"`extract --top-blocks {items.top_blocks}`" if possible else "kind 'e2e' with items.top_blocks=all"
    raise ConfigError(
        f"items.top_blocks is {items.top_blocks}, but {file.path} is cut below the last {deepest}"
        f"{'' if blocks is None else f' of the {blocks}'} blocks of {name!r}; use at most {deepest}, or {instead}"
    )


def _refuse_frames(items: ItemsConfig, file: FeatureFile) -> None:
    """Raise ConfigError if `items` asks for other frames than a file of activations was made from."""
    from extract.media.frames import parse_frame_policy

    made = file.provenance.recipe.get("frames")
    if items.frames is not None and made is not None and str(parse_frame_policy(items.frames)) != made:
        raise ConfigError(
            f"items.frames is {items.frames!r}, but {file.path} was made from frames {made}; extract it again with "
            f"--frames {items.frames}, or leave items.frames out"
        )


def _encoder_of(name: str, file: FeatureFile, items: ItemsConfig) -> Encoder:
    """Return the encoder that made a file; ConfigError if `items` names other weights, or the encoder has changed."""
    made, weights = file.provenance.recipe, items.weights
    if (made["weights"] == "random") != (weights == "random"):
        kind = "random" if made["weights"] == "random" else "pretrained (or their path)"
        raise ConfigError(f"items.weights is {weights!r}, but {file.path} was made with others; use {kind}")
    if weights == "random" and items.encoder_seed not in (None, made.get("seed", 0)):
        raise ConfigError(
            f"items.encoder_seed is {items.encoder_seed}, but {file.path} was made with random weights of seed "
            f"{made.get('seed', 0)}; set items.encoder_seed={made.get('seed', 0)}, or extract with --seed "
            f"{items.encoder_seed}"
        )
    encoder = load_encoder(name, weights, made.get("seed", 0), made.get("frames"), made.get("faults", ()))
    if encoder.weights_sha256 != file.provenance.weights_sha256:
        raise ConfigError(
            f"items.weights {weights!r} of {name!r} have sha256 {encoder.weights_sha256[:12]}, {file.path} was made "
            f"with {file.provenance.weights_sha256[:12]}; name those weights, or extract again"
        )
    now = encoder.recipe()
    other = [key for key in SEEN if canonical_json(now[key]) != canonical_json(made.get(key))]
    if other:
        both = "; ".join(f"{key} {made.get(key)}, not {now[key]}" for key in other)
        raise ConfigError(f"{file.path} was made by another {name!r} ({both}); extract again")
    return encoder


def load_encoder(name: str, weights: str, seed: int, frames: str | None = None, faults: Sequence[str] = ()) -> Encoder:
    """Build an encoder; ConfigError for an unknown name, weights that cannot be had, or a missing library."""
    try:
        from extract.encoders.faults import with_faults
        from extract.encoders.registry import get_encoder
        from extract.media.frames import parse_frame_policy

        spec = get_encoder(name)
        if faults:
            spec = with_faults(spec, tuple(faults))
        if frames is not None and spec.frames is not None:
            spec = replace(spec, frames=parse_frame_policy(frames))
        return spec.backend(spec, weights, seed)
    except ImportError as error:
        raise ConfigError(
            f"encoder {name!r} needs {error.name or 'a library'}, which is not installed; {install_extra('extract')}"
        ) from error


def _last_blocks(encoder: Encoder, items: ItemsConfig) -> tuple[nn.Module, ...]:
    blocks = encoder.blocks()
    return tuple(blocks if items.top_blocks == "all" else blocks[-items.top_blocks :])


def _facts(encoder: Encoder, items: ItemsConfig) -> dict[str, Any]:
    chosen = items.frames is not None and encoder.spec.frames is not None
    return {
        "encoder": encoder.spec.name,
        "weights": items.weights,
        "weights_sha256": encoder.weights_sha256,
        "top_blocks": items.top_blocks,
        "blocks": len(encoder.blocks()),
    } | ({"frames": str(encoder.spec.frames)} if chosen else {})


def _lengths(prefix: Prefix, source: Source, n_items: int) -> Lengths | None:
    """Return what counts the tokens of titles; None for pixels, and where all titles give the same number of tokens."""
    from extract.encoders.cutting import Padded

    packing = prefix.packing
    if not isinstance(packing, Padded) or packing.context:
        return None
    return Lengths(source, n_items, packing.lengths)


class Lengths:
    """How many tokens each item's title has: counted when first asked for, then remembered."""

    def __init__(self, source: Source, n_items: int, count: Callable[[Any], Tensor]) -> None:
        """Take `count`, which returns how many tokens (n,), at least 1 each, are in what `source` reads."""
        self._source, self._count = source, count
        self._known = torch.zeros(n_items, dtype=torch.int64)

    def __call__(self, items: Tensor) -> Tensor:
        """Return lengths (n,) int64, on the CPU, of distinct items (n,) int64."""
        items = host_copy(items)
        unknown = items[self._known[items] == 0]
        for start in range(0, len(unknown), AT_ONCE):
            some = unknown[start : start + AT_ONCE]
            self._known[some] = self._count(self._source.read(some))
        return self._known[items]


class CutTitles:
    """Activations of titles, read up to the longest title of each call: the rest is padding."""

    def __init__(self, activations: MappedActivations, lengths: Lengths) -> None:
        """Take the activations, and how many tokens each item has."""
        self.file = activations.file
        self._activations, self._lengths = activations, lengths

    def read(self, items: Tensor) -> Tensor:
        """Return activations (n, tokens, F) of items (n,) int64, on their device."""
        return self._activations.read(items, int(self._lengths(items).max()))

    def expect(self, items: Tensor) -> None:
        """Start to read items (n,) int64 ahead, unless all rows are in memory."""
        self._activations.expect(items)


def set_up(trained: Sequence[nn.Module], items: ItemsConfig, *, titles: bool) -> None:
    """Set up modules before they train.

    Args:
        trained: the modules that train; others are left alone.
        items: says whether dropout and drop-path are active.
        titles: whether their inputs are titles, padded to similar lengths. On a machine without a GPU, attention is
            then computed by plain matrix products, which train faster in bfloat16 than the fused kernel. In float32
            neither is always faster.
    """
    parts = [module for part in trained for module in part.modules()]
    if not items.encoder_dropout:
        _without_dropout(parts)
    if titles and not torch.cuda.is_available():
        _plain_attention(parts)


def _without_dropout(parts: Sequence[nn.Module]) -> None:
    module: Any
    for module in parts:
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":  # torchvision's drop-path
            module.p = 0.0
        elif isinstance(getattr(module, "drop_prob", None), float):  # drop-path of other libraries
            module.drop_prob = 0.0


def _plain_attention(parts: Sequence[nn.Module]) -> None:
    """Let parts compute attention plainly, by a copy of their configuration; frozen blocks keep the one files had."""
    own: dict[int, Any] = {}
    module: Any
    for module in parts:
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            if id(config) not in own:
                own[id(config)] = copy.deepcopy(config)
                own[id(config)]._attn_implementation = "eager"
            module.config = own[id(config)]
