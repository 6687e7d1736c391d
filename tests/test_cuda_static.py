"""The static check of CUDA kernels reads ptxas rightly and ends with an error where a kernel spills."""

import sys

import pytest

from benchmarks import cuda_static

REPORT = """
ptxas info    : Compiling entry function '_Z3onev' for 'sm_90a'
ptxas info    : Function properties for _Z3onev
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compiling entry function '_Z3twov' for 'sm_90a'
ptxas info    : Function properties for _Z3twov
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 0 barriers
"""


def test_reports_are_read() -> None:
    one, two = cuda_static.read_report(REPORT, "one.cu", "90a", {"_Z3onev": 128, "_Z3twov": 256})
    assert (one.name, one.registers, one.shared_bytes, one.spill_bytes) == ("_Z3onev", 72, 1024, 0)
    assert (two.name, two.registers, two.shared_bytes, two.spill_bytes) == ("_Z3twov", 128, 0, 20)
    assert one.occupancy == 7 * 4 / 64 and two.occupancy == 2 * 8 / 64


@pytest.mark.parametrize(
    ("threads", "registers", "share"),
    [(128, 32, 1.0), (256, 255, 8 / 64), (1024, 64, 0.5), (384, 80, 24 / 64), (32, 16, 1.0)],
)
def test_occupancy(threads: int, registers: int, share: float) -> None:
    assert cuda_static.occupancy(threads, registers) == share


def test_spills_are_an_error(tmp_path, monkeypatch, capsys) -> None:
    kernels = list(cuda_static.read_report(REPORT, "one.cu", "90a", {"_Z3onev": 128, "_Z3twov": 256}))
    monkeypatch.setattr(cuda_static, "toolkit", lambda: tmp_path)
    monkeypatch.setattr(cuda_static, "_run", lambda command: "Cuda compilation tools, release 13.0, V13.0.88")
    monkeypatch.setattr(cuda_static, "compile_all", lambda *_: kernels)
    monkeypatch.setattr(sys, "argv", ["cuda_static", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="1 of 2 kernels spill registers"):
        cuda_static.main()
    assert "for sm_90a spills 20 bytes" in " ".join(capsys.readouterr().out.split())
    kernels.pop()
    cuda_static.main()
    assert len(list(tmp_path.glob("cuda_static-*.json"))) == 2


def test_without_a_compiler_there_is_nothing_to_check(tmp_path, monkeypatch, capsys) -> None:
    def missing() -> None:
        raise cuda_static.NoCompiler("there is no nvcc")

    monkeypatch.setattr(cuda_static, "toolkit", missing)
    monkeypatch.setattr(sys, "argv", ["cuda_static", "--output", str(tmp_path)])
    cuda_static.main()
    assert "nothing to check: there is no nvcc" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
