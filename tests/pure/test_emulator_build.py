"""Is the plug-in built once and found again, and does each reason why it cannot be built have its sentence?

The compiler is a script that notes its calls; the real one is at work in tests/emulated.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nebula.emulator import build, environment, toolchain
from nebula.emulator.build import library
from nebula.emulator.clock import NotEmulated, is_emulated, virtual_seconds
from nebula.errors import NebulaError

COMPILER = """#!/bin/sh
case "$*" in *--version) echo "scripted 1.0"; exit 0;; esac
echo "$@" >> {calls}
{fault}
while [ "$1" != -o ]; do shift; done
echo binary > "$2"
"""


def fake_paddle(folder: Path, version: str) -> None:
    (folder / "paddle" / "version").mkdir(parents=True)
    (folder / "paddle" / "__init__.py").touch()
    (folder / "paddle" / "version" / "__init__.py").write_text(f"full_version     = '{version}'\ncommit = 'c0ffee'\n")
    headers = folder / "paddle" / "include" / "paddle" / "phi" / "backends"
    headers.mkdir(parents=True)
    (headers / "device_ext.h").touch()


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a fake Paddle 3.3.1, a scripted compiler and an empty cache; the file of the compiler's calls."""
    fake_paddle(tmp_path / "site", "3.3.1")
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    script = tmp_path / "compiler"
    script.write_text(COMPILER.format(calls=tmp_path / "calls", fault="sleep 0.01"))
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("NEBULA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "calls"


def test_two_callers_at_once_build_once(scripted: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: library(), range(2))
    assert first == second == library()
    assert first.read_text() == "binary\n"
    assert [path.name for path in first.parent.iterdir()] == ["libpaddle-sim_npu.so"]
    sources = list(build.SOURCE_FOLDER.glob("*.cc"))
    assert len(scripted.read_text().splitlines()) == len(sources) + 1


def test_another_compiler_or_source_builds_anew(
    scripted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = library()
    monkeypatch.setenv("CXX", f"{scripted.with_name('compiler')} -O0")
    second = library()
    monkeypatch.setattr(build, "SOURCE_FOLDER", tmp_path / "src")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "one.cc").touch()
    assert len({first.parent, second.parent, library().parent}) == 3


def test_the_environment_names_library_and_table(
    scripted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variables = environment(Path("devices.txt"))
    assert variables == {
        "CUSTOM_DEVICE_ROOT": str(library().parent),
        "NEBULA_EMULATED_DEVICES": str(tmp_path / "devices.txt"),
    }


def test_a_failed_build_says_why_and_leaves_nothing(scripted: Path, tmp_path: Path) -> None:
    script = tmp_path / "compiler"
    script.write_text(COMPILER.format(calls=scripted, fault="echo 'x.cc:1: error: no such thing' >&2; exit 1"))
    with pytest.raises(toolchain.CompilationFailed, match=r"x\.cc:1: error: no such thing"):
        library()
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_no_compiler(scripted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(
        toolchain.NoCompiler, match=r"none was found \(g\+\+, c\+\+, clang\+\+\); install g\+\+ or set CXX"
    ):
        library()
    monkeypatch.setenv("CXX", "nonesuch")
    with pytest.raises(toolchain.NoCompiler, match="CXX=nonesuch"):
        library()


@pytest.mark.parametrize("version", ["3.2.2", "3.4.0", "3.3.0rc1", ""])
def test_paddle_versions_it_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    fake_paddle(tmp_path, version)
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(toolchain.UnknownPaddle, match=f"knows PaddlePaddle 3.3, this is {version or 'unknown'}"):
        library()


def test_no_headers(scripted: Path, tmp_path: Path) -> None:
    header = tmp_path / "site/paddle/include/paddle/phi/backends/device_ext.h"
    header.unlink()
    with pytest.raises(toolchain.NoPaddle, match=r"has no headers .*device_ext\.h is missing"):
        library()


def test_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.platform, "machine", lambda: "aarch64")
    with pytest.raises(toolchain.UnsupportedMachine, match="this is Linux aarch64"):
        library()
    assert issubclass(toolchain.UnsupportedMachine, NebulaError)


def test_a_process_without_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUSTOM_DEVICE_ROOT", raising=False)
    assert not is_emulated()
    with pytest.raises(NotEmulated, match="no emulated device"):
        virtual_seconds()


def test_a_damaged_library_is_built_again(scripted: Path) -> None:
    path = library()
    calls = scripted.read_text()
    path.write_text("bin")
    assert library() == path
    assert path.read_text() == "binary\n"
    assert len(scripted.read_text()) == 2 * len(calls)


def test_a_cache_that_cannot_be_written_says_what_to_set(
    scripted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEBULA_CACHE", str(tmp_path / "file"))
    with pytest.raises(toolchain.NoCache, match=r"file/emulator: Not a directory\); set NEBULA_CACHE"):
        library()


def test_a_compiler_with_an_open_quote_is_one_sentence(monkeypatch: pytest.MonkeyPatch, scripted: Path) -> None:
    monkeypatch.setenv("CXX", "g++ '")
    with pytest.raises(toolchain.NoCompiler, match="no closing quotation"):
        library()
