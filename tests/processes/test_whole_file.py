"""Files are written whole or not at all: a limit on their size ends a write in its middle, as a full disk does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nebula.errors import BadInput
from nebula.whole_file import write_whole

NEBULA = Path(sys.executable).with_name("nebula")
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
os.execv(sys.argv[1], sys.argv[1:])
"""
RUN = Path(__file__).parents[2] / "examples" / "ernie-small.yaml"


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_text("old")
    link.symlink_to(real)
    write_whole(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no" / "file", "No such file")):
        with pytest.raises(BadInput, match=f"cannot be written: {reason}"):
            write_whole(path, "text")


@pytest.mark.parametrize(
    "words",
    [
        ("plan", RUN, "--force", "-o"),
        ("report", RUN, "--force", "-o"),
        ("simulate", RUN, "--force", "--trace"),
        ("cluster", "discover", "--force", "-o"),
    ],
    ids=lambda words: words[0],
)
def test_a_full_disk_leaves_what_was_there(words, tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    command = [NEBULA, *map(str, words), str(path)]
    done = subprocess.run([sys.executable, "-c", LIMITED, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{path}: cannot be written: File too large\n")
    assert "Traceback" not in done.stderr
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result"]
