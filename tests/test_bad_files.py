"""Files with wrong bytes here and there: read as they should be, or refused in one line; never another exception."""

import io
import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_runs import EXAMPLE, make_images, make_request, write_recipe

from convfirst_ext.analysis import load_machines
from convfirst_ext.analysis.ceilings import Ceilings
from convfirst_ext.analysis.ceilings_cache import cache_file, cached_ceilings, keep
from convfirst_ext.apps.classify import WeightsError, load_classifier, packaged_weights
from convfirst_ext.apps.photos import PhotoError, read_photo
from convfirst_ext.bench.results import read_results
from convfirst_ext.training.checkpoint import Checkpoint
from convfirst_ext.training.config import make_config, read_recipe
from convfirst_ext.training.errors import CheckpointError, ConfigError
from convfirst_ext.training.run import train

CEILINGS = Ceilings(2, 100.0, "a test", {"L2": 200.0, "L3": 100.0, "DRAM": 50.0}, {"L2": 1, "L3": 2, "DRAM": 3})


def damaged(whole: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Cut off, with bytes changed, left out and put in."""
    draw = random.Random(seed)
    for _ in range(count):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 1, 3, 20))):
            at = draw.randrange(len(content))
            kind = draw.randrange(4)
            if kind == 0:
                content[at] ^= 1 << draw.randrange(8)
            elif kind == 1:
                content[at : at + 1] = bytes([draw.randrange(256)])
            elif kind == 2:
                del content[at : at + draw.randrange(1, 9)]
            else:
                content[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 5)))
            content = content or bytearray(b"\0")
        yield bytes(content if draw.randrange(4) else content[: draw.randrange(len(content))])


def refused(read: Callable[[], object], *errors: type[Exception]) -> bool:
    try:
        read()
    except errors as error:
        assert type(error) in errors and str(error) and "\n" not in str(error), error
        return True
    return False


def _picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 80).convert("RGB").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_photos(tmp_path: Path, kind: str) -> None:
    path, refusals = tmp_path / f"photo.{kind.lower()}", 0
    for content in damaged(_picture(kind), 60):
        path.write_bytes(content)
        refusals += refused(lambda: read_photo(path).image.getpixel((0, 0)), PhotoError)
    assert refusals > 5


def test_recipes(tmp_path: Path) -> None:
    path, refusals = tmp_path / "recipe.toml", 0
    whole = (EXAMPLE.parent / "recipes" / "imagenet.toml").read_bytes()
    for content in damaged(whole, 150):
        path.write_bytes(content)
        refusals += refused(lambda: make_config(read_recipe(path), {}), ConfigError)
    assert refusals > 75


def test_machines(tmp_path: Path) -> None:
    path, refusals = tmp_path / "machines.toml", 0
    whole = b'[mine]\nflops_per_second = 1.0e12\nbytes_per_second = 5e10  # DDR5\n\n["with 2"]\n'
    whole += b"flops_per_second = 3\nbytes_per_second = 4\nbytes_per_element = 4\n"
    for content in damaged(whole, 150):
        path.write_bytes(content)
        refusals += refused(lambda: load_machines(path), ValueError)
    assert refusals > 75


def test_the_cache_of_ceilings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep(CEILINGS)
    whole, warned = cache_file().read_bytes(), 0
    for content in damaged(whole, 150):
        cache_file().write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = cached_ceilings(2)
        assert found is None or isinstance(found, Ceilings)
        assert not (caught and found)
        assert all("convfirst info --measure" in str(warning.message) for warning in caught)
        warned += bool(caught)
    assert warned > 50
    keep(CEILINGS)
    assert cached_ceilings(2) == CEILINGS


def test_results(tmp_path: Path) -> None:
    path, refusals = tmp_path / "results.json", 0
    whole = json.dumps({"benchmark": "layers", "records": [{"case": "a", "macs": 1}]}).encode()
    for content in damaged(whole, 150):
        path.write_bytes(content)
        refusals += refused(lambda: read_results(path), ValueError)
    assert refusals > 75


def test_weights_of_the_classifier(tmp_path: Path) -> None:
    """Its checksums are not compared, so that a changed weight in the middle is not seen: only what cannot be read."""
    whole, path = Path(packaged_weights()).read_bytes(), tmp_path / "weights.pth"
    for content in (whole[:1000], whole[:-1000], b"\0" * 100 + whole[100:], whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        assert refused(lambda: load_classifier(path), WeightsError)


def test_checkpoints(tmp_path: Path) -> None:
    path, refusals = tmp_path / "checkpoint.pt", 0
    config = make_config({}, {})
    Checkpoint(1, config, {"classes": 4}, {"model": {"weight": torch.arange(64.0)}}, [{"torch": 1}]).save(path)
    whole = path.read_bytes()
    for content in damaged(whole, 150):
        path.write_bytes(content)
        refusals += refused(lambda: Checkpoint.load(path), CheckpointError)
    assert refusals > 75


@pytest.mark.parametrize("name", ["epoch", "config", "data", "trainer", "random_states"])
@pytest.mark.parametrize("value", [None, "text", -1.5, [1], {"a": 1}])
def test_a_checkpoint_with_a_wrong_part(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "checkpoint.pt"
    Checkpoint(1, make_config({}, {}), {}, {}, []).save(path)
    content = torch.load(path, weights_only=True)
    if isinstance(value, type(content[name])) and name != "config":
        return
    torch.save({**content, name: value}, path)
    assert refused(lambda: Checkpoint.load(path), CheckpointError)


def test_a_checkpoint_of_another_network_is_refused_when_it_is_resumed(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    folder = tmp_path / "run"
    train(make_request(folder, images, epochs=1), lambda line: None)
    path = folder / "checkpoint.pt"
    whole = Checkpoint.load(path)
    for trainer, states in (
        ({}, whole.random_states),
        ({**whole.trainer, "model": {}}, whole.random_states),
        ({**whole.trainer, "optimizer": None}, whole.random_states),
        (whole.trainer, [{}]),
        (whole.trainer, [None]),
    ):
        Checkpoint(whole.epoch, whole.config, whole.data, trainer, states).save(path)
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        request = make_request(folder, images, resume=str(folder), epochs=2)
        assert refused(lambda request=request: train(request, lambda line: None), CheckpointError)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_recipe_that_is_another_kind_of_file(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", epochs=3)
    for content in (_picture("PNG"), b"{}", b"[" * 10_000, b"\0" * 10, recipe.read_bytes() * 2):
        recipe.write_bytes(content)
        assert refused(lambda: read_recipe(recipe), ConfigError)
