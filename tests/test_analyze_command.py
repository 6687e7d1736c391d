"""`convfirst analyze`: what it prints and writes, and what it refuses."""

import base64
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from convfirst_ext.apps.commands import app

OWN_MODEL = """
from torch import nn
def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
"""


def analyze(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["analyze", *map(str, arguments)], env={"COLUMNS": "200"})


def test_a_gpu_is_only_computed(tmp_path: Path) -> None:
    outcome = analyze(
        "mobilenetv2_035", "--machine", "a5000", "--batch", 16, "--size", 96, "--output", tmp_path / "deep"
    )
    assert outcome.exit_code == 0, outcome.output
    assert "160 op/byte memory is the limit" in outcome.stdout and "blocks.1.0" in outcome.stdout
    assert "Measured" not in outcome.stdout and "roofline" in outcome.stdout
    assert len(list((tmp_path / "deep").glob("*.png"))) == 4
    page = (tmp_path / "deep" / "convfirst-analyze-mobilenetv2_035.html").read_text()
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(image)[:8] for image in images] == [b"\x89PNG\r\n\x1a\n"] * 4
    assert not re.search(r'(src|href)="(?!data:)', page), "needs nothing beside itself"
    assert page.count("<table>") == 2 and "blocks.1.0.conv_pw" in page and "a5000" in page


def test_this_machine_is_measured(tmp_path: Path) -> None:
    outcome = analyze("mobilenetv2_035", "--size", 64, "--output", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert "Measured: the optimized network takes" in outcome.stdout and "mbconv 3x3" in outcome.stdout
    assert "the optimized network takes" in (tmp_path / "convfirst-analyze-mobilenetv2_035.html").read_text()


def test_a_function_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model.py").write_text(OWN_MODEL)
    monkeypatch.chdir(tmp_path)
    outcome = analyze("own_model:small", "--no-time", "--layers", "--size", 16)
    assert outcome.exit_code == 0, outcome.output
    assert "3x16x16 -> 8x14x14" in outcome.stdout and "no block of several products" in outcome.stdout
    assert (tmp_path / "convfirst-analyze-own_model-small.html").exists() and "Measured" not in outcome.stdout


def test_torchvision(tmp_path: Path) -> None:
    outcome = analyze("shufflenet_v2_x0_5", "--machine", "h200", "--output", tmp_path)
    assert outcome.exit_code == 0 and "stage2.0.branch2" in outcome.stdout, outcome.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mobilenetv2_10"], "timm has no model 'mobilenetv2_10'; did you mean mobilenetv2_1"),
        (["lcnet_035", "--machine", "cray"], "machine 'cray' is not known; it must be one of a5000"),
        (["lcnet_035", "--machine", "no.toml"], "no.toml"),
        (["lcnet_035", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["lcnet_035", "--size", "4"], "--size must be at least 8, got 4"),
        (["lcnet_035", "--output", __file__], "a file; it must be a folder"),
        (["no_module:f"], "no_module:f: ModuleNotFoundError"),
        (["math:pi"], "math:pi: TypeError"),
        (["builtins:dict"], "gives dict, it must give a torch.nn.Module"),
    ],
)
def test_a_bad_argument_gets_one_sentence(arguments: list[str], sentence: str) -> None:
    outcome = analyze(*arguments)
    assert outcome.exit_code == 2 and outcome.stdout == "", outcome.output
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("convfirst: ") and sentence in line
