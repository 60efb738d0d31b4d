"""The three things an item has: a video, a cover, a title."""

from __future__ import annotations

from typing import Literal

Modality = Literal["video", "cover", "title"]


MODALITIES: tuple[Modality, ...] = ("video", "cover", "title")
