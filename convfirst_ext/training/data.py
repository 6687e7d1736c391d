"""Where images come from: scikit-learn's digits, or a folder with train/ and val/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from .errors import DataError
from .randomness import seeded_by
from .requirements import train_extra

with train_extra():
    from PIL import Image
    from torchvision.datasets import ImageFolder

DIGITS = "digits"
DIGITS_SIZE = 32
_DIGITS_IN_TEST = 360
_DARKEST_DIGIT = 16.0

Transform = Callable[[Image.Image], Tensor]


class Images(Protocol):
    """A sequence of images and their classes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...


@dataclass(frozen=True)
class ImageData:
    """Images to train on and to test on, and the names of their classes.

    Attributes:
        train: images to train on.
        test: images to test on.
        classes: one name a class, in the order of the labels.
    """

    train: Images
    test: Images
    classes: Sequence[str]

    def describe(self) -> dict[str, object]:
        """What must be the same when a run goes on."""
        return {"classes": list(self.classes), "train": len(self.train), "test": len(self.test)}


class Samples(Dataset[tuple[Tensor, int]]):
    """Images as tensors, whose augmentation depends on (seed, epoch, index) and nothing else.

    So it is the same in whatever process or order they are read, and the process's own generators are left alone.
    Set `epoch` before each pass over the data.
    """

    def __init__(self, images: Images, transform: Transform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        with seeded_by(self.seed, self.epoch, index):
            return self.transform(image), label


def open_data(name: str) -> ImageData:
    """Opens "digits" or a folder with train/ and val/, each with one folder a class.

    Raises:
        DataError: the folder is not like that.
        MissingPackageError: scikit-learn, which the digits come with, is not installed.
    """
    return _digits() if name == DIGITS else _image_folder(Path(name))


def _digits() -> ImageData:
    """1,797 scans of 8x8 pixels, enlarged; the split keeps the classes' shares and is always the same."""
    with train_extra():
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    scans, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=_DIGITS_IN_TEST, random_state=0, stratify=labels)
    images = [_enlarge(scan.reshape(8, 8)) for scan in scans]

    def pick(indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[tuple[Image.Image, int]]:
        return [(images[index], int(labels[index])) for index in indices]

    return ImageData(pick(train), pick(test), [str(digit) for digit in range(10)])


def _enlarge(scan: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Image.Image:
    grey = Image.fromarray(np.round(scan * (255 / _DARKEST_DIGIT)).astype(np.uint8))
    return grey.resize((DIGITS_SIZE, DIGITS_SIZE), Image.Resampling.BICUBIC).convert("RGB")


def _image_folder(root: Path) -> ImageData:
    folders = {name: root / name for name in ("train", "val")}
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    if missing:
        lacking = "/ and ".join(missing)
        raise DataError(f"data must be {DIGITS} or a folder with train/ and val/, got {str(root)!r} without {lacking}/")
    train, val = (_FolderImages(folder) for folder in folders.values())
    if train.classes != val.classes:
        differing = sorted(set(train.classes) ^ set(val.classes))
        raise DataError(f"train/ and val/ of {root} must hold the same classes, but only one has {differing[0]!r}")
    return ImageData(train, val, train.classes)


class _FolderImages:
    """torchvision's ImageFolder, with errors that name the file."""

    def __init__(self, folder: Path) -> None:
        try:
            self._folder = ImageFolder(str(folder))
        except FileNotFoundError as error:
            raise DataError(f"{folder} must hold one folder of images a class: {error}") from None
        self.classes: list[str] = self._folder.classes

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        try:
            image, label = self._folder[index]
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's decoders let all of these out
            raise DataError(f"cannot read the image {self._folder.samples[index][0]}: {error}") from None
        return image, label
