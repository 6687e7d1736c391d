"""Reads photos of every usual kind and makes them the classifier's input."""

import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .requirements import models_extra

with models_extra():
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SIZE = 224
_DEEP_GRAY_MODES = ("I", "F")
_WHITE = (255, 255, 255, 255)


class PhotoError(ValueError):
    """A photo that cannot be read; the message is one line that names it and says why."""


@dataclass(frozen=True)
class Photo:
    """A photo as a viewer shows it: RGB, upright, its name printable on one line."""

    name: str
    image: Image.Image


def sample_photos() -> list[Photo]:
    """Two photos that come with scikit-image: a cat (`chelsea`) and a cup of coffee (`coffee`)."""
    with models_extra():
        from skimage import data
    return [Photo(name, Image.fromarray(getattr(data, name)())) for name in ("chelsea", "coffee")]


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Reads an image file; of several frames the first.

    Images of 8 and 16 bits, gray, palette, RGB, CMYK and floating point, become RGB; transparency is laid on
    white, and a rotation noted in EXIF is carried out.

    Raises:
        PhotoError: the file is missing, unreadable, damaged or not an image.
    """
    name = printable(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of large photos, neither of which matters here.
            warnings.simplefilter("ignore")
            return Photo(name, _read_rgb(Path(path)))
    except PhotoError as error:
        raise PhotoError(f"{name}: {error}") from None
    except FileNotFoundError:
        raise PhotoError(f"{name}: no such file") from None
    except PermissionError:
        raise PhotoError(f"{name}: no permission to read it") from None
    except UnidentifiedImageError:
        raise PhotoError(f"{name}: not an image (or of a kind that Pillow does not read)") from None
    except Image.DecompressionBombError:
        raise PhotoError(f"{name}: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception as error:  # Pillow's decoders let nearly every kind of exception out of a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PhotoError(f"{name}: a damaged image ({reason})") from None


def preprocess(image: Image.Image) -> Tensor:
    """Makes EfficientNet-Lite's input: the largest centred square, bicubic to 224, (pixel - 127) / 128.

    Args:
        image: an RGB image of any size.

    Returns:
        float32 (1, 3, 224, 224), contiguous.
    """
    square = ImageOps.fit(image.convert("RGB"), (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(square, dtype=np.float32))
    return ((pixels - 127) / 128).permute(2, 0, 1).unsqueeze(0).contiguous()


def printable(path: str | os.PathLike[str]) -> str:
    """The path as text for one line: control characters and bytes that are no text come out escaped."""
    text = os.fspath(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _read_rgb(path: Path) -> Image.Image:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise PhotoError("a folder, not a photo" if stat.S_ISDIR(mode) else "not a regular file")
    with Image.open(path) as file:
        file.load()
        image = _upright(file)
    if image.mode.startswith(_DEEP_GRAY_MODES):
        return _deep_gray_to_rgb(image)
    if image.has_transparency_data:
        # What lies under full transparency is arbitrary: a viewer shows the paper instead.
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata must not cost a photo whose pixels are fine
        return image.copy()


def _deep_gray_to_rgb(image: Image.Image) -> Image.Image:
    """Pillow clips gray of more than 8 bits when it converts; scale it instead."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    if image.mode.startswith("I"):
        full_scale = 65535.0
    else:
        full_scale = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    gray = np.clip(np.rint(values * (255.0 / full_scale)), 0, 255).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")
