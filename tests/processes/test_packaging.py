"""The source distribution and the wheel hold every module once, under the name that users import."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOT_FOLDERS = ("planner", "cost_model", "models", "deploy")


def build(kind: str, tmp_path: Path) -> Path:
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), kind, "-d", str(tmp_path / "dist")]
    if kind == "bdist_wheel":
        command[4:4] = ["build", "-b", str(tmp_path / "build")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next((tmp_path / "dist").iterdir())


@pytest.fixture(scope="module")
def sdist_names(tmp_path_factory):
    with tarfile.open(build("sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        return [str(PurePosixPath(*PurePosixPath(m.name).parts[1:])) for m in archive if m.isfile()]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    return zipfile.ZipFile(build("bdist_wheel", tmp_path_factory.mktemp("wheel"))).namelist()


def test_the_sdist_holds_each_file_once(sdist_names):
    assert len(sdist_names) == len(set(sdist_names))
    assert not [n for n in sdist_names if n.startswith(tuple(f"nebula/{f}/" for f in ROOT_FOLDERS))]


def tracked_sources() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    code = {p for p in listed if p.endswith((".py", ".cc", ".h", ".j2")) and (ROOT / p).is_file()}
    return {p for p in code if not p.startswith("tests/")}


def test_the_sdist_holds_every_source_file(sdist_names):
    assert tracked_sources() - set(sdist_names) == set()


def test_the_wheel_maps_the_root_folders_into_nebula(wheel_names):
    modules = {n for n in wheel_names if not n.split("/")[0].endswith(".dist-info")}
    assert {n.split("/")[0] for n in modules} == {"nebula"}
    # measuring scripts belong to the repository, not to the installed package
    sources = {p for p in tracked_sources() if not p.startswith("cost_model/measurements/")}
    expected = {f"nebula/{p}" if p.startswith(ROOT_FOLDERS) else p for p in sources}
    assert {n for n in expected if n.startswith("nebula/")} - modules == set()
