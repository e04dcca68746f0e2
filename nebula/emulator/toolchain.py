"""With what is the plug-in built? The installed PaddlePaddle's headers and libraries, and a C++ compiler.

Paddle is looked at, not imported. What is missing raises an EmulatorUnavailable that says what to do; callers that
can go on without the emulated device catch that one class.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nebula.errors import NebulaError

KNOWN_VERSIONS = re.compile(r"3\.3\.\d+")
_COMPILERS = ("g++", "c++", "clang++")


class EmulatorUnavailable(NebulaError):
    """The emulated device cannot be had here."""


class NoCompiler(EmulatorUnavailable):
    """No C++ compiler was found."""


class NoPaddle(EmulatorUnavailable):
    """PaddlePaddle or its headers are missing."""


class UnknownPaddle(EmulatorUnavailable):
    """The plug-in relies on internals of PaddlePaddle that this version may not have."""


class UnsupportedMachine(EmulatorUnavailable):
    """The plug-in holds machine code for another processor."""


class NoCache(EmulatorUnavailable):
    """The folder that keeps the plug-in cannot be written."""


class CompilationFailed(EmulatorUnavailable):
    """The compiler or the linker ended with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paddle:
    """The installed PaddlePaddle: its version, the commit it was built from, and its folder."""

    version: str
    commit: str
    folder: Path

    @property
    def include_folders(self) -> list[Path]:
        """Where its headers and those of its third parties lie."""
        include = self.folder / "include"
        parties = sorted((include / "third_party" / "install").glob("*/include"))
        return [include, include / "third_party", *parties]

    @property
    def library_folder(self) -> Path:
        """Where libphi and its companions lie."""
        return self.folder / "libs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A C++ compiler: the words that start it, and what it calls itself."""

    command: tuple[str, ...]
    version: str


def check_machine() -> None:
    """Refuses machines other than Linux on x86-64.

    Raises:
        UnsupportedMachine: for all others.
    """
    machine, system = platform.machine(), platform.system()
    if (system, machine) != ("Linux", "x86_64"):
        raise UnsupportedMachine(
            f"the emulated device runs on Linux x86_64 only, this is {system} {machine}; "
            "use data parallelism on plain CPU here"
        )


def find_paddle() -> Paddle:
    """The PaddlePaddle of this interpreter.

    Raises:
        NoPaddle: none is installed, or its headers are missing.
        UnknownPaddle: its version is not 3.3.
    """
    spec = importlib.util.find_spec("paddle")
    if spec is None or not spec.submodule_search_locations:
        raise NoPaddle("PaddlePaddle is not installed in this environment; run `pip install paddlepaddle==3.3.1`")
    folder = Path(spec.submodule_search_locations[0])
    text = _read(folder / "version" / "__init__.py")
    version, commit = _assigned(text, "full_version"), _assigned(text, "commit")
    if not KNOWN_VERSIONS.fullmatch(version):
        raise UnknownPaddle(
            f"the emulated device knows PaddlePaddle 3.3, this is {version or 'unknown'}; "
            "run `pip install paddlepaddle==3.3.1`"
        )
    header = folder / "include" / "paddle" / "phi" / "backends" / "device_ext.h"
    if not header.is_file():
        raise NoPaddle(f"PaddlePaddle {version} has no headers ({header} is missing); reinstall its wheel")
    return Paddle(version=version, commit=commit, folder=folder)


def find_compiler(env: Mapping[str, str]) -> Compiler:
    """The compiler that CXX names, or else the first of g++, c++ and clang++.

    Raises:
        NoCompiler: none of them starts.
    """
    try:
        named = shlex.split(env.get("CXX", ""))
    except ValueError as error:
        raise NoCompiler(f"CXX={env['CXX']} cannot be read ({str(error).lower()}); set CXX to a command") from None
    candidates = [named] if named else [[name] for name in _COMPILERS]
    for command in candidates:
        path = shutil.which(command[0], path=env.get("PATH"))
        if path is None:
            continue
        words = (path, *command[1:])
        answer = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return Compiler(command=words, version=answer.stdout.partition("\n")[0])
    tried = f"CXX={env['CXX']}" if named else ", ".join(_COMPILERS)
    raise NoCompiler(f"the emulated device needs a C++ compiler and none was found ({tried}); install g++ or set CXX")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _assigned(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*=\s*'([^']*)'", text, flags=re.MULTILINE)
    return found.group(1) if found else ""
