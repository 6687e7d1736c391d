"""A folder of small images and a small network, for runs that take seconds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convfirst_ext.training.plan import Request

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "train_convfirstnet.py"
RECIPES = EXAMPLE.parent / "recipes"
CLASSES = ("east", "north", "south", "west")
TRAIN_IMAGES, TEST_IMAGES = 64, 21

# Everything that draws random numbers is on: augmentation in Python, NumPy and PyTorch, mixup, dropout, drop path.
RANDOM_SETTINGS: dict[str, Any] = {
    "model": "test_efficientnet",
    "train_size": 32,
    "eval_size": 32,
    "rotate": 10.0,
    "shift": 0.1,
    "hflip": 0.5,
    "crop_scale": 0.5,
    "crop_ratio": 1.3,
    "interpolation": "random",
    "auto_augment": "rand-m9-mstd0.5",
    "erase_prob": 0.5,
    "erase_mode": "pixel",
    "mixup": 0.2,
    "drop_rate": 0.2,
    "drop_path_rate": 0.2,
    "epochs": 3,
    "batch_size": 16,
    "lr": 0.001,
    "device": "cpu",
}


def make_images(root: Path) -> Path:
    """train/ and val/ with noisy images of which one side is bright: the class."""
    generator = np.random.default_rng(0)
    for split, count in (("train", TRAIN_IMAGES), ("val", TEST_IMAGES)):
        for number in range(count):
            name = CLASSES[number % len(CLASSES)]
            pixels = generator.integers(0, 100, (24, 32, 3))
            side = {"east": np.s_[:, 16:], "north": np.s_[:12], "south": np.s_[12:], "west": np.s_[:, :16]}[name]
            pixels[side] += 120
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def write_recipe(path: Path, **settings: Any) -> Path:
    """A TOML file of these settings."""
    lines = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_request(folder: Path, data: Path, resume: str | None = None, **changes: Any) -> Request:
    """A run of RANDOM_SETTINGS with these changes, into the folder."""
    recipe = write_recipe(folder.with_name(f"{folder.name}.toml"), **RANDOM_SETTINGS, data=str(data))
    return Request(recipe, changes=changes, output=folder, resume=resume)


def example_command(*arguments: object, processes: int = 1, port: int = 0) -> list[str]:
    """The example's command line, under torchrun where there are several processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    return [sys.executable, *(launcher if processes > 1 else []), str(EXAMPLE), *map(str, arguments)]


def run_example(*arguments: object, processes: int = 1, port: int = 0, cwd: Path | None = None) -> None:
    """Runs it to its end and fails with what it said."""
    command = example_command(*arguments, processes=processes, port=port)
    environment = example_environment()
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def example_environment() -> dict[str, str]:
    """Lets the example import what these tests import, and keeps it to two threads."""
    paths = [path for path in sys.path if path and Path(path).is_dir()]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "2"}


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else '"' + value.replace("\\", "\\\\") + '"'
