"""JPEG, PNG and other images to pixels of one size, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_nas.errors import BenchmarkDataError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
R = TypeVar("R")
Encoded = Path | bytes

_GREY = ("1", "L", "LA")
_AT_ONCE = 64  # a task per image would cost as much as decoding a small one, and memory where there are millions


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map over items in a few threads; decoders and checksums let go of the interpreter's lock."""
    some = [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            return [result for results in pool.map(lambda part: [*map(function, part)], some) for result in results]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the first broken image is enough
            raise


def is_grey(name: str, encoded: Encoded) -> bool:
    """Whether an image has no colour by its header, which is all that is read.

    Raises:
        BenchmarkDataError: It is broken, or has more than 8 bits per channel.
    """
    with _opened(name, encoded) as image:
        return grey_image(name, image)


def grey_image(name: str, image: Image) -> bool:
    """As :func:`is_grey`, for an image that is open."""
    if image.mode[0] in "IF":
        raise BenchmarkDataError(
            f"{name} has more than 8 bits per channel (mode {image.mode}); expected 8: convert the images first"
        )
    return image.mode in _GREY


def shape_of(name: str, encoded: Encoded) -> tuple[int, int, int]:
    """``(channels, height, width)`` by an image's header."""
    with _opened(name, encoded) as image:
        return (1 if grey_image(name, image) else 3), image.height, image.width


def decode(names: Sequence[str], encoded: Sequence[Encoded], shape: tuple[int, int, int], resize: bool) -> Tensor:
    """Pixels of images, grey or RGB.

    Args:
        names: What errors call the images.
        encoded: Files, or their bytes.
        shape: ``(channels, height, width)`` of every result.
        resize: Scale the central square (bilinearly) to this shape; else another size is an error.

    Raises:
        BenchmarkDataError: An image is broken or of another size.

    Shapes:
        N images -> ``(N, C, H, W)`` uint8.
    """
    pixels = torch.empty(len(encoded), *shape, dtype=torch.uint8)
    place = pixels.numpy()

    def one(index: int) -> None:
        with _opened(names[index], encoded[index]) as image:
            place[index] = to_pixels(names[index], image, shape, resize)

    in_threads(one, range(len(encoded)))
    return pixels


def to_pixels(name: str, image: Image, shape: tuple[int, int, int], resize: bool) -> np.ndarray:
    """Pixels of one image; arguments and errors as for :func:`decode`.

    Shapes:
        -> ``(C, H, W)`` uint8.
    """
    from PIL import ImageOps
    from PIL.Image import Resampling

    channels, height, width = shape
    try:
        if not grey_image(name, image) and channels == 1:
            raise BenchmarkDataError(f"{name} has colour and the first image has none; expected all alike: convert it")
        if image.info.get("exif"):  # photographs may lie on their side
            ImageOps.exif_transpose(image, in_place=True)
        image.load()
        mode = "L" if channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    except BenchmarkDataError:
        raise
    except Exception as error:  # a damaged image can fail in any way whatever
        raise _broken(name, error) from error
    if (image.height, image.width) != (height, width):
        if not resize:
            raise BenchmarkDataError(
                f"{name} has {image.height}x{image.width} pixels, expected {height}x{width} as the first image; "
                "give image_size to scale all to one size"
            )
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # Not by resize's own box, which lets the pixels around it shine in.
        image = image.crop((left, top, left + side, top + side)).resize((width, height), Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def _opened(name: str, encoded: Encoded) -> Image:
    import PIL.Image

    try:
        image: Image = PIL.Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
    except Exception as error:
        raise _broken(name, error) from error
    return image


def _broken(name: str, error: Exception) -> BenchmarkDataError:
    return BenchmarkDataError(
        f"{name}: not a readable image ({type(error).__name__}: {error}); replace it or take it out"
    )
