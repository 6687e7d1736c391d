"""Wrong arguments of every command: status 2, one complaint, nothing on standard output, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convfirst_ext.apps.commands import app
from convfirst_ext.bench.results import ResultFile

FILES = {
    "notes.txt": b"not a photo",
    "cut.png": b"\x89PNG\r\n\x1a\n\0\0",
    "broken.toml": b"a = [\n",
    "empty.toml": b"",
    "binary.toml": b"\xff\xfe\0",
    "negative.toml": b"[a]\nflops_per_second = -1\nbytes_per_second = 1\n",
    "unknown.toml": b"[a]\nflops = 1\n",
    "short.toml": b"[a]\nflops_per_second = 1\n",
    "number.toml": b"a = 1\n",
    "two.toml": b"[a]\nflops_per_second = 1\nbytes_per_second = 1\n[b]\nflops_per_second = 1\nbytes_per_second = 1\n",
    "own_models.py": (
        b"import sys, torch\n"
        b"def number(): return 1\n"
        b"def fails(): raise RuntimeError('for a reason')\n"
        b"def wants(size): pass\n"
        b"def leaves(): sys.exit(3)\n"
        b"def linear(): return torch.nn.Linear(3, 3)\n"
        b"def empty(): return torch.nn.Identity()\n"
    ),
}
A5000 = ["--machine", "a5000"]
# Refused by the command itself, in one line.
OURS: list[tuple[list[str], str]] = [
    (["classify", "missing.jpg"], "missing.jpg: no such file"),
    (["classify", "notes.txt"], "notes.txt: not an image"),
    (["classify", "cut.png"], "cut.png: "),
    (["classify", "."], ".: a folder, not a photo"),
    (["classify", ""], "a folder, not a photo"),
    (["classify", "/dev/null"], "/dev/null: not a regular file"),
    (["classify", "--output", "picture.jpg"], "its name must end in .png"),
    (["classify", "--output", "no/picture.png"], "there is no folder no"),
    (["classify", "--output", ""], "its name must end in .png"),
    (["classify", "cut.png", "--output", "cut.png"], "is one of the photos"),
    (["explain", "mobilenetv2_10"], "did you mean mobilenetv2_1"),
    (["explain", ""], "timm has no model ''"),
    (["explain", "vit_tiny_patch16_224", "--size", "100"], "vit_tiny_patch16_224 cannot run on an image of 100x100"),
    (["analyze", "lcnet_03", *A5000], "timm has no model 'lcnet_03'"),
    (["analyze", "lcnet_035", "--machine", "cray"], "machine 'cray' is not known; it must be one of a5000"),
    (["analyze", "lcnet_035", "--machine", ""], "machine '' is not known"),
    (["analyze", "lcnet_035", "--machine", "missing.toml"], "missing.toml"),
    (["analyze", "lcnet_035", "--machine", "broken.toml"], "broken.toml must be a TOML file of machines"),
    (["analyze", "lcnet_035", "--machine", "binary.toml"], "binary.toml must be a TOML file of machines"),
    (["analyze", "lcnet_035", "--machine", "empty.toml"], "'empty.toml' must hold a table [NAME]"),
    (["analyze", "lcnet_035", "--machine", "number.toml"], "number.toml: a must be a table [a]"),
    (["analyze", "lcnet_035", "--machine", "two.toml"], "name one of a, b as two.toml:NAME"),
    (["analyze", "lcnet_035", "--machine", "two.toml:c"], "name one of a, b as two.toml:NAME"),
    (["analyze", "lcnet_035", "--machine", "negative.toml"], "flops_per_second of machine 'a' must be a positive"),
    (["analyze", "lcnet_035", "--machine", "unknown.toml"], "has flops = 1"),
    (["analyze", "lcnet_035", "--machine", "short.toml"], "must have the key bytes_per_second"),
    (["analyze", "lcnet_035", *A5000, "--batch", "0"], "--batch must be at least 1, got 0"),
    (["analyze", "lcnet_035", *A5000, "--batch", "9" * 20], "--batch and --size must make images"),
    (["analyze", "lcnet_035", *A5000, "--size", "7"], "--size must be at least 8, got 7"),
    (["analyze", "lcnet_035", *A5000, "--output", "notes.txt"], "notes.txt: a file; it must be a folder"),
    (["analyze", "lcnet_035", *A5000, "--output", "notes.txt/x"], "it must be a folder you may write to"),
    (["analyze", "vit_tiny_patch16_224", *A5000, "--size", "100"], "model must run on the meta device"),
    (["analyze", "own_models:missing", *A5000], "own_models:missing: AttributeError"),
    (["analyze", "no_module:function", *A5000], "no_module:function: ModuleNotFoundError"),
    (["analyze", "own_models:number", *A5000], "gives int, it must give a torch.nn.Module"),
    (["analyze", "own_models:fails", *A5000], "own_models:fails: RuntimeError: for a reason"),
    (["analyze", "own_models:wants", *A5000], "own_models:wants: TypeError"),
    (["analyze", "own_models:leaves", *A5000], "own_models:leaves: SystemExit: 3"),
    (["analyze", "own_models:linear", *A5000], "model must run on the meta device"),
    (["analyze", "own_models:empty", *A5000], "flow must hold at least one operation"),
    (["analyze", ":function", *A5000], ":function: ValueError"),
    (["analyze", "own_models:", *A5000], "own_models:: AttributeError"),
    (["bench", "mobilenetv2_10"], "did you mean mobilenetv2_1"),
    (["bench", "--batch", "0"], "--batch must be at least 1, got 0"),
    (["bench", "--batch", "1", "--batch", "-1"], "--batch must be at least 1, got -1"),
    (["bench", "--size", "31"], "--size must be at least 32, got 31"),
    (["bench", "--seconds", "0"], "--seconds must be more than 0 and finite, got 0"),
    (["bench", "--seconds", "nan"], "--seconds must be more than 0 and finite, got nan"),
    (["bench", "--seconds", "inf"], "--seconds must be more than 0 and finite, got inf"),
    (["bench", "--runtime", "tvm"], "--runtime must be one of eager"),
    (["bench", "--runtime", ""], "--runtime must be one of eager"),
    (["bench", "--runtime", "onnxruntime", "--dtype", "float16"], "must be one of float32, got 'float16'"),
    (["bench", "--quick", "mobilenetv2_100", "mnasnet_100"], "--quick times one MODEL, got 2"),
    (["bench", "--output", "notes.txt"], "notes.txt: a file; it must be a folder"),
]
# Refused when the arguments are read; the error names the option.
READ: list[tuple[list[str], str]] = [
    (["nothing"], "nothing"),
    (["--nothing"], "--nothing"),
    (["info", "--nothing"], "--nothing"),
    (["info", "extra"], "extra"),
    (["info", "--threads", "0"], "--threads"),
    (["info", "--threads", "two"], "--threads"),
    (["info", "--threads", "5000"], "--threads"),
    (["classify", "--top", "0"], "--top"),
    (["classify", "--top", "1001"], "--top"),
    (["classify", "--dtype", "int8"], "--dtype"),
    (["classify", "--threads", "-1"], "--threads"),
    (["classify", "--output"], "--output"),
    (["explain"], "MODEL"),
    (["explain", "lcnet_035", "lcnet_050"], "lcnet_050"),
    (["explain", "lcnet_035", "--size", "0"], "--size"),
    (["explain", "lcnet_035", "--size", "large"], "--size"),
    (["explain", "lcnet_035", "--threads", "0"], "--threads"),
    (["analyze"], "MODEL"),
    (["analyze", "lcnet_035", "--batch", "many"], "--batch"),
    (["analyze", "lcnet_035", "--size", "1.5"], "--size"),
    (["analyze", "lcnet_035", "--threads", "0"], "--threads"),
    (["analyze", "lcnet_035", "--machine"], "--machine"),
    (["bench", "--threads", "0"], "--threads"),
    (["bench", "--dtype", "float8"], "--dtype"),
    (["bench", "--batch", "many"], "--batch"),
    (["bench", "--seconds", "long"], "--seconds"),
    (["bench", "--nothing"], "--nothing"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def _assert_unwritten(folder: Path) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


@pytest.mark.parametrize(("arguments", "sentence"), OURS, ids=[" ".join(case[0]) for case in OURS])
def test_a_wrong_argument_gets_one_line(folder: Path, arguments: list[str], sentence: str) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 2 and isinstance(outcome.exception, SystemExit), outcome.exception
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("convfirst: ") and sentence in line
    _assert_unwritten(folder)


@pytest.mark.parametrize(("arguments", "name"), READ, ids=[" ".join(case[0]) for case in READ])
def test_what_cannot_be_read_is_named(folder: Path, arguments: list[str], name: str) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 2 and isinstance(outcome.exception, SystemExit)
    assert outcome.stdout == "" and "Traceback" not in outcome.stderr and name in outcome.stderr
    _assert_unwritten(folder)


def test_a_process_ends_with_status_2(folder: Path) -> None:
    command = [sys.executable, "-m", "convfirst_ext.cli", "analyze", "lcnet_035", "--machine", "broken.toml"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("convfirst: broken.toml must be") and outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a results file"),
        (b"\xff\xfe", "is not a results file"),
        (b"[1]", "holds no object"),
        (b'{"benchmark": "networks"}', "holds no list of records"),
        (b'{"records": [1]}', "holds no list of records"),
        (b'{"benchmark": "layers", "records": []}', "has another 'benchmark' than this run"),
        (None, "cannot be read: No such file"),
    ],
)
def test_results_that_cannot_be_gone_on_with(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        ResultFile.resume(path, "networks", {})
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if content is not None else None) == content
