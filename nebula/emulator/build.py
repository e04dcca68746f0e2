"""Where is the plug-in built for the installed PaddlePaddle? In the user's cache; on first use it is built.

The place is named after everything that the result depends on: the sources, the flags, Paddle's version and the
compiler. Several processes may ask at once; one builds, the others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from nebula.cache_folder import UNWRITABLE, cache_folder
from nebula.emulator.toolchain import (
    CompilationFailed,
    Compiler,
    NoCache,
    Paddle,
    check_machine,
    find_compiler,
    find_paddle,
)

LIBRARY_NAME = "libpaddle-sim_npu.so"
SOURCE_FOLDER = Path(__file__).parent / "src"

_FLAGS = ["-O2", "-g0", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wno-deprecated"]
_FLAGS += ["-DPADDLE_WITH_CUSTOM_DEVICE", "-DPADDLE_WITH_CUSTOM_KERNEL"]
# Paddle closes the library at exit while tensors still live, hence nodelete
_LINK_FLAGS = ["-Wl,-z,nodelete", "-l:libphi_core.so", "-l:libphi.so", "-l:libcommon.so", "-pthread"]
# the longest first, so that two jobs end together
_SLOW_FIRST = ("kernels.cc", "lend.cc", "dispatch.cc", "host_kernels.cc")
_JOBS = 2

_log = logging.getLogger(__name__)


def library() -> Path:
    """The plug-in for this interpreter's PaddlePaddle, built now if it is not in the cache.

    Returns:
        The path of the shared library; its folder holds nothing else.

    Raises:
        EmulatorUnavailable: it cannot be built here; the subclass and its sentence say why.
    """
    check_machine()
    paddle = find_paddle()
    compiler = find_compiler(os.environ)
    folder = cache_folder(os.environ) / "emulator" / f"paddle-{paddle.version}-{_key(paddle, compiler)}"
    path = folder / LIBRARY_NAME
    if _is_whole(path):
        return path
    try:
        with _locked(folder.with_name(folder.name + ".lock")):
            if not _is_whole(path):
                _build(path, paddle, compiler)
    except OSError as error:
        raise NoCache("the emulated device: " + UNWRITABLE.format(f"{folder.parent}: {error.strerror}")) from None
    return path


def _is_whole(path: Path) -> bool:
    """Whether the library is there as it was built; a damaged one would end its processes without a word."""
    if not path.is_file():
        return False
    noted = _digest_file(path)
    return not noted.is_file() or noted.read_text() == hashlib.sha256(path.read_bytes()).hexdigest()


def _digest_file(path: Path) -> Path:
    """Where the library's digest is: not beside it, because Paddle loads all that lies there."""
    return path.parent.with_name(path.parent.name + ".sha256")


def _sources() -> list[Path]:
    rank = {name: place for place, name in enumerate(_SLOW_FIRST)}
    return sorted(SOURCE_FOLDER.glob("*.cc"), key=lambda path: (rank.get(path.name, len(rank)), path.name))


def _key(paddle: Paddle, compiler: Compiler) -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCE_FOLDER.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    parts = [*_FLAGS, *_LINK_FLAGS, paddle.version, paddle.commit, *compiler.command, compiler.version]
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(path: Path, paddle: Paddle, compiler: Compiler) -> None:
    started = time.monotonic()
    _log.info("building the emulated device for PaddlePaddle %s with %s", paddle.version, compiler.version)
    includes = [word for folder in paddle.include_folders for word in ("-isystem", str(folder))]
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as scratch:
        objects = [Path(scratch) / f"{source.stem}.o" for source in _sources()]
        commands = [
            [*compiler.command, *_FLAGS, *includes, "-c", str(source), "-o", str(result)]
            for source, result in zip(_sources(), objects, strict=True)
        ]
        with ThreadPoolExecutor(_JOBS) as pool:
            list(pool.map(_run, commands))
        linked = Path(scratch) / LIBRARY_NAME
        link = [*compiler.command, "-shared", "-o", str(linked), *map(str, objects)]
        _run([*link, f"-L{paddle.library_folder}", *_LINK_FLAGS])
        path.parent.mkdir(exist_ok=True)
        _digest_file(path).write_text(hashlib.sha256(linked.read_bytes()).hexdigest())
        os.replace(linked, path)
    _log.info("built %s in %.0f s", path, time.monotonic() - started)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        faults = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        first = faults[0] if faults else f"exit status {done.returncode}"
        raise CompilationFailed(
            f"the emulated device could not be built: {first}; the command was: {' '.join(command)}"
        )
