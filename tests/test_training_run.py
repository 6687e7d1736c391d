"""Whole runs of a small network: what they write, that they go on exactly, and how they end when something is wrong."""

import csv
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from training_runs import CLASSES, TEST_IMAGES, TRAIN_IMAGES, make_images, make_request

from convfirst_ext.nn import Conv2d
from convfirst_ext.training.checkpoint import Checkpoint
from convfirst_ext.training.config import TrainingConfig
from convfirst_ext.training.data import open_data
from convfirst_ext.training.distributed import Group
from convfirst_ext.training.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    MissingPackageError,
    StoppedError,
)
from convfirst_ext.training.loaders import TrainingBatches, evaluation_batches
from convfirst_ext.training.run import train
from convfirst_ext.training.trainer import Trainer

ALONE = Group(torch.device("cpu"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(make_request(folder, images), lambda line: None)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    take_step = Trainer.take_step

    def stopping(self: Trainer, images: Any, labels: Any) -> Any:
        if self.step == step:
            raise error
        return take_step(self, images, labels)

    monkeypatch.setattr(Trainer, "take_step", stopping)


# What a run writes


def test_a_run_writes_records_plot_weights_and_a_report(tmp_path, images):
    told: list[str] = []
    folder = tmp_path / "deep" / "run"
    request = dataclasses.replace(make_request(tmp_path / "run", images, epochs=2), output=folder)
    report = train(request, told.append)
    steps, epochs = rows(folder / "steps.csv"), rows(folder / "epochs.csv")
    assert [int(row["step"]) for row in steps] == list(range(1, 9))
    assert [int(row["epoch"]) for row in epochs] == [1, 2]
    losses = [float(row["loss"]) for row in steps[4:]]
    assert float(epochs[1]["train_loss"]) == pytest.approx(sum(losses) / 4)
    assert report.accuracy == float(epochs[1]["test_accuracy"])
    assert (report.epochs, report.test_images, report.processes) == (2, TEST_IMAGES, 1)
    assert all(path.exists() for path in report.files.values())
    assert Image.open(folder / "curves.png").size == (1300, 550)
    assert sum("epoch " in line for line in told) == 2
    model = timm.create_model("test_efficientnet", num_classes=len(CLASSES), checkpoint_path=str(folder / "weights.pt"))
    average = Checkpoint.load(folder / "checkpoint.pt").trainer["average"]
    assert torch.equal(model.state_dict()["conv_stem.weight"], average["conv_stem.weight"])
    assert not [name for name in os.listdir(folder) if name.endswith(".part")]


def test_it_learns(tmp_path, images):
    changes = {"auto_augment": "", "erase_prob": 0.0, "mixup": 0.0, "hflip": 0.0, "drop_path_rate": 0.0}
    request = make_request(tmp_path / "run", images, **changes, crop_scale=1.0, epochs=6, lr=0.005)
    assert train(request, lambda line: None).accuracy > 0.8


@pytest.mark.parametrize(
    "changes",
    [
        {"amp": "bfloat16", "loss": "binary_cross_entropy"},
        {"amp": "float16", "mixup": 0.0, "clip_grad": 1.0, "patch": False},
        {"optimizer": "rmsproptf", "optimizer_eps": 0.001, "schedule": "step", "decay_epochs": 0.5, "workers": 2},
        {"ema_decay": 0.0, "label_smoothing": 0.0, "mixup": 0.0, "batch_norm": "frozen", "channels_last": False},
    ],
    ids=lambda changes: "-".join(f"{value}" for value in changes.values()),
)
def test_other_settings_run(tmp_path, images, changes):
    report = train(make_request(tmp_path / "run", images, **changes, epochs=1), lambda line: None)
    assert 0.0 <= report.accuracy <= 1.0


def test_layers_are_swapped_unless_told_otherwise(images):
    config = TrainingConfig(model="test_efficientnet", data=str(images))
    counts = []
    for patch in (True, False):
        model = Trainer(dataclasses.replace(config, patch=patch), 4, 4, ALONE).model
        counts.append(sum(isinstance(module, Conv2d) for module in model.modules()))
    assert counts[0] > 0 and counts[1] == 0


def test_frozen_batch_norm_keeps_its_statistics(images):
    config = TrainingConfig(model="test_efficientnet", batch_norm="frozen", train_size=32)
    trainer = Trainer(config, 4, 4, ALONE)
    trainer.train_mode()
    trainer.take_step(torch.randn(4, 3, 32, 32), torch.arange(4))
    norms = [module for module in trainer.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(module.running_mean is not None and not module.running_mean.any() for module in norms)
    assert all(module.weight.requires_grad for module in norms)


# Order and augmentation


def test_processes_share_the_batches_of_one(images):
    config = TrainingConfig(data=str(images), train_size=32, batch_size=16, shift=0.2, auto_augment="rand-m9-mstd0.5")
    data = open_data(config.data)
    whole = list(TrainingBatches(data, config, ALONE).of_epoch(2))
    halves = [list(TrainingBatches(data, config, Group(ALONE.device, rank, 2)).of_epoch(2)) for rank in range(2)]
    assert len(whole) == TRAIN_IMAGES // 16
    for (pictures, labels), first, second in zip(whole, *halves, strict=True):
        # Process r takes images r, r + 2, ... of the batch.
        assert torch.equal(torch.stack([first[0], second[0]], 1).flatten(0, 1), pictures)
        assert torch.equal(torch.stack([first[1], second[1]], 1).flatten(), labels)


def test_epochs_differ_and_workers_do_not(images):
    config = TrainingConfig(data=str(images), train_size=32, batch_size=16, hflip=0.5, erase_prob=0.5, zoom=0.2)
    data = open_data(config.data)
    alone = TrainingBatches(data, config, ALONE)
    with_workers = TrainingBatches(data, dataclasses.replace(config, workers=2), ALONE)
    first, second, again = (torch.cat([batch for batch, _ in alone.of_epoch(epoch)]) for epoch in (1, 2, 1))
    worked = torch.cat([batch for batch, _ in with_workers.of_epoch(1)])
    assert torch.equal(first, again) and torch.equal(first, worked)
    assert not torch.equal(first, second)


def test_every_test_image_is_tested_once(images):
    config = TrainingConfig(data=str(images), eval_size=32, batch_size=16)
    data = open_data(config.data)
    shares = [evaluation_batches(data, config, Group(ALONE.device, rank, 2)) for rank in range(2)]
    labels = torch.cat([labels for share in shares for _, labels in share])
    assert len(labels) == TEST_IMAGES
    assert labels.bincount().tolist() == [6, 5, 5, 5]


def test_the_digits_and_their_split():
    data = open_data("digits")
    assert (len(data.train), len(data.test), len(data.classes)) == (1437, 360, 10)
    image, label = data.train[0]
    assert image.size == (32, 32) and image.mode == "RGB" and 0 <= label < 10
    counts = torch.tensor([label for _, label in data.test]).bincount()  # type: ignore[attr-defined]
    assert counts.min() >= 34 and counts.max() <= 37


# Going on


@pytest.mark.parametrize("step", [2, 6, 8, 11], ids=lambda step: f"stopped_at_step_{step}")
def test_an_interrupted_run_goes_on_with_the_same_losses(tmp_path, monkeypatch, images, whole_run, step):
    folder = tmp_path / "run"
    stop_at(monkeypatch, step, KeyboardInterrupt())
    with pytest.raises(StoppedError, match="interrupted; " + ("no epoch" if step < 4 else ".*go on with --resume")):
        train(make_request(folder, images), lambda line: None)
    monkeypatch.undo()
    torch.manual_seed(99)
    report = train(make_request(folder, images, resume="auto"), lambda line: None)
    assert (folder / "steps.csv").read_bytes() == (whole_run / "steps.csv").read_bytes()
    for row, expected in zip(rows(folder / "epochs.csv"), rows(whole_run / "epochs.csv"), strict=True):
        assert (row["test_loss"], row["test_accuracy"]) == (expected["test_loss"], expected["test_accuracy"])
    assert report.epochs == 3


def test_weights_are_those_of_an_uninterrupted_run(tmp_path, monkeypatch, images, whole_run):
    folder = tmp_path / "run"
    stop_at(monkeypatch, 5, KeyboardInterrupt())
    with pytest.raises(StoppedError):
        train(make_request(folder, images), lambda line: None)
    monkeypatch.undo()
    train(make_request(folder, images, resume=str(folder)), lambda line: None)
    expected, weights = (torch.load(run / "weights.pt", weights_only=True) for run in (whole_run, folder))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_a_finished_run_reports_again(whole_run, images):
    before = (whole_run / "steps.csv").read_bytes()
    report = train(make_request(whole_run, images, resume=str(whole_run / "checkpoint.pt")), lambda line: None)
    assert report.epochs == 3
    assert (whole_run / "steps.csv").read_bytes() == before


def test_the_newest_run_goes_on(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    request = dataclasses.replace(make_request(tmp_path / "run", images, epochs=1), output=None)
    first = train(request, lambda line: None)
    again = train(dataclasses.replace(request, resume="auto"), lambda line: None)
    assert first.files == again.files
    assert first.files["losses"].parent.parent == Path("runs")


def test_a_resumed_run_keeps_its_settings(whole_run, images):
    with pytest.raises(CheckpointError, match="^lr must stay 0.001, with which .* was written, got 0.5$"):
        train(make_request(whole_run, images, resume="auto", lr=0.5))
    with pytest.raises(ConfigError, match="output must be the resumed run's own folder"):
        request = make_request(whole_run, images, resume=str(whole_run))
        train(dataclasses.replace(request, output=whole_run.parent / "other"))
    with pytest.raises(ConfigError, match="without another run"):
        train(make_request(whole_run, images))


def test_a_resumed_run_keeps_its_images(tmp_path, whole_run, images):
    others = make_images(tmp_path / "others")
    next((others / "train" / "east").iterdir()).unlink()
    with pytest.raises(CheckpointError, match="data must be the images that the run began with"):
        request = make_request(whole_run, images, resume="auto")
        train(dataclasses.replace(request, changes={"data": str(others)}))


# Errors


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, images):
    changes = {"optimizer": "sgd", "mixup": 0.0, "batch_norm": "frozen", "drop_path_rate": 0.0}
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) in step \d+ \(epoch \d\); a lower lr"):
        train(make_request(tmp_path / "run", images, **changes, lr=1e30), lambda line: None)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "convfirstnet_pic"},
            r"model must be one of .* got 'convfirstnet_pic'; did you mean convf",
        ),
        ({"optimizer": "adamx"}, r"optimizer must be one of the \d+ that timm knows, got 'adamx'; did you mean"),
        ({"batch_size": 65}, r"batch_size must be at most the 64 training images, got 65"),
        ({"batch_size": 15}, r"batch_size must be even in every process for mixup and cutmix, got 15"),
        ({"auto_augment": "rand-x9"}, r"auto_augment must be the name of one of timm's policies, .* got 'rand-x9'"),
        ({"batch_norm": "sync"}, r"batch_norm must be local or frozen on the CPU"),
        ({"device": "cuda:99"}, r"device must be one of the \d+ CUDA devices"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_are_one_sentence(tmp_path, images, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        train(make_request(tmp_path / "run", images, **changes), lambda line: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_folders_that_hold_no_images_are_named(tmp_path, images):
    with pytest.raises(DataError, match=r"data must be digits or a folder with train/ and val/, got .* without val/$"):
        (tmp_path / "train").mkdir()
        open_data(str(tmp_path))
    with pytest.raises(DataError, match="must hold one folder of images a class"):
        (tmp_path / "val").mkdir()
        open_data(str(tmp_path))
    others = make_images(tmp_path / "others")
    (others / "val" / "up").mkdir()
    next((others / "val" / "west").iterdir()).rename(others / "val" / "up" / "a.png")
    with pytest.raises(DataError, match="must hold the same classes, but only one has 'up'"):
        open_data(str(others))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(tmp_path, workers):
    damaged = make_images(tmp_path / "images")
    file = sorted((damaged / "train" / "east").iterdir())[0]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=f"cannot read the image .*{file.name}"):
        train(make_request(tmp_path / "run", damaged, workers=workers), lambda line: None)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingPackageError, match=r"'sklearn' is not installed; run: pip install .*\[train\]"):
        open_data("digits")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, images):
    (tmp_path / "file").touch()
    request = dataclasses.replace(make_request(tmp_path / "run", images), output=tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match="output must be a folder that can be written to"):
        train(request, lambda line: None)
