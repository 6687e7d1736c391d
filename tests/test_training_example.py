"""`examples/train_convfirstnet.py`, as a user calls it."""

import csv
import os
import runpy
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training_runs import EXAMPLE, example_command, example_environment, make_images, make_request, run_example

from convfirst_ext.training.checkpoint import Checkpoint

main = runpy.run_path(str(EXAMPLE))["main"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_short_run_on_the_digits(tmp_path, monkeypatch, capsys):
    """No folder is named, so it is made, and said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    options = ["--model", "test_efficientnet", "--epochs", "2", "--batch-size", "128", "--threads", "2"]
    assert main(options) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("test_efficientnet-")
    output = capsys.readouterr().out
    assert f"Files of the run: runs/{folder.name}" in output
    assert "% of 360 images" in output and f"runs/{folder.name}/curves.png" in output
    assert len(rows(folder / "steps.csv")) == 2 * (1437 // 128)


def test_what_is_wrong_is_one_line_and_status_1(tmp_path, images, capsys):
    options = [
        "--config",
        str(make_request(tmp_path / "run", images).default_recipe),
        "--output",
        str(tmp_path / "run"),
    ]
    for wrong in (["--epochs", "0"], ["--model", "nothing"], ["--resume", str(tmp_path / "nowhere")], ["--seed", "-1"]):
        assert main([*options, *wrong]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(SystemExit):
        main(["--amp", "int8"])
    assert "choose from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_images_gets_the_papers_recipe(tmp_path, images, capsys):
    """Its 600 epochs are not run: the batch of 2,048 images is too large for this folder."""
    assert main(["--data", str(images), "--device", "cpu", "--amp", "none"]) == 1
    assert "batch_size must be at most the 64 training images, got 2048" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_has_the_losses_of_one_that_is_not(tmp_path, images):
    recipe = make_request(tmp_path / "run", images).default_recipe
    options = ["--config", recipe, "--epochs", 6, "--threads", 2, "--resume", "auto", "--output"]
    run_example(*options, tmp_path / "whole")
    folder = tmp_path / "killed"
    for epochs, pause in ((1, 0.0), (2, 0.05), (4, 0.13)):
        process = subprocess.Popen(example_command(*options, folder), env=example_environment())
        until = time.monotonic() + 120
        while not (folder / "epochs.csv").exists() or len(rows(folder / "epochs.csv")) < epochs:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        if (folder / "checkpoint.pt").exists():
            assert Checkpoint.load(folder / "checkpoint.pt").epoch >= epochs - 1
    run_example(*options, folder)
    assert (folder / "steps.csv").read_bytes() == (tmp_path / "whole" / "steps.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--no-patch",)], ids=["our_layers", "stock_layers"])
def test_pico_learns_the_digits_in_five_minutes(tmp_path, options):
    """The default run; time is asked of our layers only, on two cores that nothing else uses."""
    started = time.monotonic()
    run_example("--threads", 2, "--output", "run", *options, cwd=tmp_path)
    seconds = time.monotonic() - started
    assert float(rows(tmp_path / "run" / "epochs.csv")[-1]["test_accuracy"]) >= 0.985
    assert options or seconds < 300
