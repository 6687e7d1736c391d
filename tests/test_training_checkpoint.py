"""Checkpoints and records: whole at every moment, and read back as they were."""

import os
import random

import numpy as np
import pytest
import torch

from convfirst_ext.training import files
from convfirst_ext.training.checkpoint import Checkpoint
from convfirst_ext.training.config import TrainingConfig
from convfirst_ext.training.errors import CheckpointError
from convfirst_ext.training.files import write_atomically
from convfirst_ext.training.logs import EpochRecord, RunLog, Table
from convfirst_ext.training.loop import StepRecord
from convfirst_ext.training.randomness import random_states, restore_random_states, seed_all, seeded_by

CPU = torch.device("cpu")


def make_checkpoint(epoch: int = 1) -> Checkpoint:
    state = {"step": 5, "model": {"weight": torch.arange(6.0).reshape(2, 3)}}
    return Checkpoint(epoch, TrainingConfig(epochs=9), {"train": 3}, state, [random_states(CPU)])


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.standard_normal()), torch.rand(()).item()]


def test_a_checkpoint_comes_back(tmp_path):
    path = tmp_path / "checkpoint.pt"
    saved = make_checkpoint()
    saved.save(path)
    loaded = Checkpoint.load(path)
    assert (loaded.epoch, loaded.config, loaded.data) == (saved.epoch, saved.config, saved.data)
    assert torch.equal(loaded.trainer["model"]["weight"], saved.trainer["model"]["weight"])
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_random_states_come_back_from_a_file(tmp_path):
    seed_all(3)
    np.random.standard_normal()  # NumPy makes two at a time and keeps the second
    make_checkpoint().save(tmp_path / "checkpoint.pt")
    expected = draw()
    seed_all(4)
    draw()
    restore_random_states(Checkpoint.load(tmp_path / "checkpoint.pt").random_states[0], CPU)
    assert draw() == expected


def test_borrowed_generators_depend_on_the_key_only_and_are_given_back():
    seed_all(0)
    expected = draw()
    drawn = []
    for seed in (0, 7):
        seed_all(seed)
        with seeded_by(1, 2, 3):
            drawn.append(draw())
    assert drawn[0] == drawn[1]
    with seeded_by(1, 3, 2):
        assert draw() != drawn[0]
    seed_all(0)
    with seeded_by(1, 2, 3):
        draw()
    assert draw() == expected


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch, step):
    path = tmp_path / "checkpoint.pt"
    make_checkpoint(epoch=1).save(path)

    def crash(*arguments, **options):
        raise KeyboardInterrupt

    if step == "write":
        monkeypatch.setattr(torch, "save", lambda content, stream: (stream.write(b"half of"), crash()))
    else:
        monkeypatch.setattr(files.os, step, crash)
    with pytest.raises(KeyboardInterrupt):
        make_checkpoint(epoch=2).save(path)
    monkeypatch.undo()
    assert Checkpoint.load(path).epoch == 1
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / ".checkpoint.pt.part").write_bytes(b"half of a checkpoint")
    make_checkpoint().save(tmp_path / "checkpoint.pt")
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file"

    def write(stream):
        stream.write(b"content")
        assert not path.exists()

    write_atomically(path, write)
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("damage", ["empty", "text", "half", "header", "weight"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    make_checkpoint().save(path)
    whole = path.read_bytes()
    weight = torch.arange(6.0).numpy().tobytes()
    assert weight in whole
    damaged = {
        "empty": b"",
        "text": b"not a checkpoint",
        "half": whole[: len(whole) // 2],
        "header": bytes(4) + whole[4:],
        "weight": whole.replace(weight, weight[:-1] + b"\0"),
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match="checkpoint.pt is damaged or no checkpoint"):
        Checkpoint.load(path)


def test_foreign_checkpoints_are_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="cannot read the checkpoint .*: No such file"):
        Checkpoint.load(path)
    with pytest.raises(CheckpointError, match="cannot read the checkpoint .*: Is a directory"):
        Checkpoint.load(tmp_path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of a training run"):
        Checkpoint.load(path)
    torch.save({"format": "convfirst_ext.training", "version": 99}, path)
    with pytest.raises(CheckpointError, match="is a checkpoint of version 99, this is 1"):
        Checkpoint.load(path)
    torch.save({"format": "convfirst_ext.training", "version": 1, "epoch": 1, "config": {"spin": 1}}, path)
    with pytest.raises(CheckpointError, match="of another release of this package.*spin"):
        Checkpoint.load(path)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    torch.save(Evil(), tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        Checkpoint.load(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "made").exists()


def test_records_keep_all_digits(tmp_path):
    records = [StepRecord(1, step, 0.1 / 3, float(torch.tensor(1.0 / step))) for step in range(1, 5)]
    table = Table(tmp_path / "steps.csv", StepRecord)
    table.append(records[:2])
    table.append(records[2:])
    assert table.read() == records
    assert table.path.read_text().splitlines()[0] == "epoch,step,lr,loss"


def test_records_behind_the_checkpoint_are_dropped(tmp_path):
    log = RunLog(tmp_path, 0, lambda line: None)
    for epoch in (1, 2):
        log.add(
            [StepRecord(epoch, 2 * epoch + step, 0.1, 2.0) for step in (-1, 0)],
            EpochRecord(epoch, 0.1, 2.0, 1.0, 0.5, 3.0, 100.0),
        )
    log.close()
    with open(tmp_path / "steps.csv", "a") as stream:
        stream.write("3,5,0.")  # an editor's half line
    log = RunLog(tmp_path, 1, lambda line: None)
    assert [record.step for record in log.steps.read()] == [1, 2]
    assert [record.epoch for record in log.epochs.read()] == [1]
    with pytest.raises(CheckpointError, match="epochs.csv must hold the 2 epochs of the checkpoint"):
        RunLog(tmp_path, 2, lambda line: None)
