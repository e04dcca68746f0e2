"""Where Nebula keeps what it builds once for a user: the emulator's plug-in, the encoded corpus. Makes no folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

UNWRITABLE = "the cache folder cannot be written ({}); set NEBULA_CACHE to a folder that can be"
"""What to say when something cannot be kept, with the system's reason."""


def cache_folder(env: Mapping[str, str]) -> Path:
    """NEBULA_CACHE, or else `nebula` in XDG_CACHE_HOME or ~/.cache; `~` stands for the home in all of them."""
    if env.get("NEBULA_CACHE"):
        return Path(env["NEBULA_CACHE"]).expanduser()
    return Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nebula"
