"""`extract --pixels`: run no encoder, and store the decoded, resized and cropped pixels.

Letters: B batch, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch
from extract.encoders.pixel_contract import contract_of
from extract.encoders.spec import EncoderSpec
from features.provenance import canonical_json


class Pixels(Encoder):
    """Stands in for an encoder and returns uint8 pixels (B, T, H, W, 3) as they are.

    Its recipe is an input contract, so encoders with the same contract share a file.

    Args:
        spec: an encoder's entry, of which only the input contract is kept.

    Raises:
        ConfigError: the encoder reads titles.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        # The name shows the frames, so that a file pattern can tell two files of one picture size apart.
        seen = str(spec.frames).replace(":", "") if spec.frames else ""
        name = "-".join(filter(None, (spec.modality, seen, f"{contract_of(spec)['size']}px")))
        spec = replace(spec, name=name, weights=None, faults=(), blocks=())
        super().__init__(spec, nn.Module(), _through, weights="checkpoint")
        self.weights_sha256 = ""

    def forward(self, batch: Batch) -> Tensor:
        """Return the batch."""
        return _through(None, batch)

    def recipe(self) -> dict[str, Any]:
        """Return what fixes the pixels, except the decoder."""
        return {"pixels": contract_of(self.spec)}


def _through(_: Any, batch: Batch) -> Tensor:
    assert isinstance(batch, Tensor)
    return batch


def distinct_contracts(specs: Sequence[EncoderSpec]) -> list[EncoderSpec]:
    """Return the first encoder of each input contract, because one file serves all that share it."""
    return list({canonical_json(contract_of(spec)): spec for spec in reversed(specs)}.values())[::-1]
