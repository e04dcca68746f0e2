"""Writes the modules of control.proto and roll.proto; run it after a change: python -m ...generate.

It needs grpcio-tools, which the extra `test` brings. What is generated is checked in, so that nobody else does.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
PROTOS = ("nebula/elastic/protocol/control.proto", "nebula/elastic/protocol/roll.proto")
ROOT = HERE.parents[2]


def generate(folder: Path) -> None:
    """Writes the generated modules below a folder, under the path of their package."""
    _compile(f"--python_out={folder}", f"--pyi_out={folder}", f"--grpc_python_out={folder}")


def descriptor(path: Path) -> bytes:
    """The compiled files as a serialised FileDescriptorSet, left at a path as well."""
    _compile(f"--descriptor_set_out={path}")
    return path.read_bytes()


def _compile(*outputs: str) -> None:
    from grpc_tools import protoc

    if protoc.main(["protoc", f"-I{ROOT}", *outputs, *PROTOS]):
        raise SystemExit(f"{', '.join(PROTOS)} cannot be compiled")


if __name__ == "__main__":
    generate(ROOT)
    sys.exit(0)
