"""Training in two processes under torchrun: the losses of one process, and what happens when one is killed."""

import csv
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from training_runs import example_command, example_environment, make_images, make_request, run_example, write_recipe

from convfirst_ext.training.checkpoint import Checkpoint
from convfirst_ext.training.run import train

LIMIT = 240  # seconds


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def losses(folder: Path) -> list[float]:
    with open(folder / "steps.csv", newline="") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


def settings_of_equality(model: str, images: Path) -> dict[str, object]:
    """What makes the steps of many processes those of one.

    Nothing may depend on which images share a process: no batch statistics, no mixup; nor on what each process draws
    for itself: no dropout, no drop path. Augmentation goes by image and stays on. And the network must not amplify
    the rounding of sums, as deep ones without any normalization do.
    """
    return {
        "model": model,
        "data": str(images),
        "batch_norm": "frozen",
        "train_size": 32,
        "eval_size": 32,
        "shift": 0.1,
        "auto_augment": "rand-m9-mstd0.5",
        "erase_prob": 0.5,
        "epochs": 5,
        "batch_size": 16,
        "optimizer": "sgd",
        "lr": 0.05,
        "device": "cpu",
    }


@pytest.mark.parametrize("model", ["test_convnext", pytest.param("test_efficientnet", marks=pytest.mark.slow)])
def test_two_processes_take_the_steps_of_one(tmp_path, images, model):
    recipe = write_recipe(tmp_path / "recipe.toml", **settings_of_equality(model, images))
    options = ["--config", recipe, "--output"]
    for processes, name in ((1, "one"), (2, "two")):
        run_example(*options, tmp_path / name, processes=processes, port=free_port())
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20
    assert two == pytest.approx(one, rel=1e-5)
    assert max(one) > 1.05 * min(one), "a loss that stands still shows nothing"
    weights = [torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two")]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_the_same_losses(tmp_path, images):
    """Each process has its own generators, so dropout and mixup are on here."""
    make_request(tmp_path / "run", images)
    runs = {"whole": [3], "parts": [1, 3]}
    for name, stops in runs.items():
        for epochs in stops:
            # The schedule must not know that the run will be stopped, so the first part is killed and not shortened.
            command = example_command(
                *("--config", tmp_path / "run.toml", "--output", tmp_path / name, "--resume", "auto"),
                processes=2,
                port=free_port(),
            )
            with started(command) as process:
                if epochs < 3:
                    wait_for_epochs(tmp_path / name, epochs, process)
                    kill(workers_of(process)[0])
                process.communicate(timeout=LIMIT)
            assert (process.returncode == 0) == (epochs == 3)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_run_with_a_message_and_a_whole_checkpoint(tmp_path, images, victim):
    make_request(tmp_path / "run", images)
    folder = tmp_path / "out"
    command = example_command(
        *("--config", tmp_path / "run.toml", "--epochs", 500, "--output", folder), processes=2, port=free_port()
    )
    with started(command) as process:
        wait_for_epochs(folder, 2, process)
        kill(workers_of(process)[victim])
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "SIGKILL" in errors, "torchrun says how the process ended"
    assert f"go on with --resume {folder}" in errors, "the other process says how to go on"
    assert 2 <= Checkpoint.load(folder / "checkpoint.pt").epoch < 500


def test_another_number_of_processes_is_said(tmp_path, images):
    folder = tmp_path / "run"
    train(make_request(folder, images, epochs=1), lambda line: None)
    path = folder / "checkpoint.pt"
    checkpoint = Checkpoint.load(path)
    Checkpoint(0, checkpoint.config, checkpoint.data, checkpoint.trainer, checkpoint.random_states * 2).save(path)
    told: list[str] = []
    train(make_request(folder, images, resume="auto"), told.append)
    assert "The run had 2 processes and now has 1: its losses will not be the same." in told


@contextmanager
def started(command: list[str]) -> "Iterator[subprocess.Popen[str]]":
    """A command with its output caught, in a session of its own that ends with the block."""
    process = subprocess.Popen(
        command,
        env=example_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_epochs(folder: Path, epochs: int, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + LIMIT
    while not (folder / "epochs.csv").exists() or len((folder / "epochs.csv").read_text().splitlines()) <= epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "the run is too slow"
        time.sleep(0.02)


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """The process ids of torchrun's workers, by rank."""
    return sorted(children(process.pid))


def children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                yield int(entry.name)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
