"""Small pictures for people: arrays as grey, coloured or signed pixels, lines on axes, words; as PNG.

Input: arrays. Output: the bytes of a PNG.
Invariant: equal input gives equal bytes with one version of Pillow, whose only owner for drawing this is. Without
it nothing can be drawn, and ``can_draw`` says so.
"""

import importlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lading.core.extras import is_there

Pixels = NDArray[np.uint8]
LACKING = "no preview: the Python package pillow is not installed (extras ephys and imaging)"
_INK, _FAINT, _PAPER, _LINE, _BAND = (32, 36, 44), (120, 126, 138), (255, 255, 255), (24, 92, 168), (196, 214, 236)
# Of zlib: the highest level takes three times as long for a twentieth of the bytes.
_PACKED = 6
# From blue over white to red: what is below, at and above zero.
_STEPS = 8
_LOW, _HIGH = np.array([33, 80, 160.0]), np.array([176, 28, 40.0])


def can_draw() -> bool:
    """Tell whether pictures can be made here."""
    return is_there("PIL")


def signed_pixels(values: NDArray[Any], limit: float) -> Pixels:
    """Return values as colours: white is 0, blue ``-limit``, red ``limit``."""
    # Few steps, since noise in many colours would not pack.
    share = np.rint(np.clip(np.nan_to_num(values) / (limit or 1.0), -1, 1) * _STEPS)[..., None] / _STEPS
    white = 255.0
    colours = np.where(share < 0, white + (white - _LOW) * share, white + (_HIGH - white) * share)
    return np.asarray(np.rint(colours), np.uint8)


def blend(planes: Sequence[NDArray[Any]], colors: Sequence[str]) -> Pixels:
    """Return planes of 0 to 1, each in its colour of six hex digits, added up."""
    total = np.zeros((*planes[0].shape, 3))
    for plane, color in zip(planes, colors):
        total += plane[..., None] * np.frombuffer(bytes.fromhex(color), np.uint8)
    return np.asarray(np.rint(np.clip(total, 0, 255)), np.uint8)


def plan_pictures(unwanted: bool) -> tuple[bool, list[str]]:
    """Return whether a job draws pictures, and what a person is told where it cannot."""
    able = can_draw()
    return able and not unwanted, [] if able or unwanted else [LACKING]


class Sheet:
    """A white sheet of paper to draw on; places are pixels from the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._image = _module("Image").new("RGB", (width, height), _PAPER)
        self._draw = _module("ImageDraw").Draw(self._image)
        self._fonts: dict[int, Any] = {}

    def write(self, at: tuple[float, float], text: str, *, size: int = 12, faint: bool = False, to: str = "l") -> None:
        """Write a line of text; ``to``: ``l`` starts there, ``m`` is centred, ``r`` ends there."""
        if size not in self._fonts:
            self._fonts[size] = _module("ImageFont").load_default(size)
        font = self._fonts[size]
        # What the font does not have would be a box.
        plain = "".join(one if one.isascii() or one in "±" else "?" for one in text)
        left = at[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[to] * font.getlength(plain)
        self._draw.text((round(left), round(at[1])), plain, fill=_FAINT if faint else _INK, font=font)

    def paste(self, at: tuple[int, int], pixels: Pixels, size: tuple[int, int] | None = None) -> None:
        """Put pixels there; ``size`` (width, height) stretches them, each pixel a box of one colour."""
        image = _module("Image").fromarray(np.ascontiguousarray(pixels))
        if size is not None and size != image.size:
            image = image.resize(size, _module("Image").Resampling.NEAREST)
        self._image.paste(image, at)

    def frame(self, box: tuple[int, int, int, int]) -> None:
        """Draw the outline of a box (left, top, right, bottom)."""
        self._draw.rectangle(box, outline=_FAINT)

    def tick(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a thin line."""
        self._draw.line([start, end], fill=_FAINT)

    def curve(self, points: Sequence[tuple[float, float]]) -> None:
        """Draw a line through points."""
        if len(points) > 1:
            self._draw.line(list(points), fill=_LINE, width=2)

    def band(self, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]) -> None:
        """Fill what lies between two lines."""
        if len(upper) > 1:
            self._draw.polygon([*upper, *reversed(lower)], fill=_BAND)

    def encode(self, colours: int = 64) -> bytes:
        """Return the sheet as PNG of at most that many colours, 0 for as many as there are."""
        stream = io.BytesIO()
        image = self._image.quantize(colours, dither=0) if colours else self._image
        image.save(stream, "PNG", compress_level=_PACKED)
        return stream.getvalue()


def _module(name: str) -> Any:
    return importlib.import_module(f"PIL.{name}")
