"""The copies of the training's state that a node keeps in memory: its own, and those of a neighbour.

Workers write their own (nebula.runtime.memory_copy); what no other node holds is passed on to the neighbour. For a new
generation the copies that it needs are put into one folder: local ones by another name, others fetched from the nodes
that have them. They stay there until the generation's own are with the neighbours, so that a node that is lost soon
after another costs no more. Every file that travels is checked against its sha256.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc

from nebula.checkpoint.copies import assemble
from nebula.checkpoint.copy_file import Stamp, stamp
from nebula.checkpoint.from_copies import write_checkpoint
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.control_pb2_grpc import PeerStub
from nebula.errors import BadInput, NebulaError
from nebula.runtime.fence import VARIABLE, check_fence

OWN, KEPT, RESUME = "own", "kept", "resume"
"""Folders of the scratch space; a copy is named by its folder, below the last by the generation, too, and its file."""
RESCUE = "rescue"
"""The folder for copies that become a checkpoint; nobody asks for those."""
PASSED_FIRST = 2
"""Steps that a generation passes on before what it began from is given up: all nodes have passed on the first then."""
CHUNK_BYTES = 1 << 20
FETCHES, AGAIN_S = 3, 0.5
"""How often a copy is asked for, and seconds in between."""
SHARE = 0.1
"""Of the time, that passing copies on to the neighbour may take."""
_NAME = re.compile(r"rank-(\d{5,})\.(common|alone)\.[0-3]")
_PATH = re.compile(rf"(?:{OWN}|{KEPT}|{RESUME}/\d+)/{_NAME.pattern}")

Dial = Callable[[str], grpc.Channel]


class Copies:
    """The copies of a node, below its scratch folder."""

    def __init__(self, scratch: Path, node: str, dial: Dial) -> None:
        self.scratch, self.node, self.dial = scratch, node, dial
        for name in (OWN, KEPT, RESUME):
            (scratch / name).mkdir()
        self._passed: dict[str, Stamp] = {}
        self._passed_steps: set[tuple[int, int]] = set()
        self._pool = ThreadPoolExecutor(1, "neighbour")
        self._passing: Future[None] | None = None
        self._not_before_s = 0.0

    def held(self) -> list[wire.Copy]:
        """All whole copies: the own, the kept ones, and those from which the generation began."""
        found = []
        for folder in (OWN, KEPT, RESUME):
            for path in sorted((self.scratch / folder).rglob("rank-*")):
                match, of = _NAME.fullmatch(path.name), stamp(path)
                if match and of:
                    found.append(
                        wire.Copy(
                            name=str(path.relative_to(self.scratch)),
                            generation=of.generation,
                            step=of.step,
                            rank=int(match[1]),
                            alone=match[2] == "alone",
                            ranks=of.ranks,
                        )
                    )
        return found

    def path(self, name: str) -> Path:
        """The file of a copy.

        Raises:
            BadInput: it is no name of a copy.
        """
        if not _PATH.fullmatch(name):
            raise BadInput(f"{name!r} is no name of a copy")
        return self.scratch / name

    def chunks(self, name: str) -> Iterator[wire.Chunk]:
        """A copy in pieces.

        Raises:
            BadInput: there is none, or it was written anew meanwhile.
        """
        path = self.path(name)
        of = stamp(path)
        if of is None:
            raise BadInput(f"{self.node} holds no whole copy {name}")
        digest, left = hashlib.sha256(), of.bytes
        with tempfile.TemporaryFile(dir=self.scratch) as file:
            # a worker writes the file anew two steps later, sooner than it may be sent
            with path.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 24)
            if stamp(path) != of:
                raise BadInput(f"{name} of {self.node} was written anew while it was read")
            file.seek(0)
            while left:
                data = file.read(min(CHUNK_BYTES, left))
                if not data:
                    raise BadInput(f"{path} is shorter than it says")
                left -= len(data)
                digest.update(data)
                yield wire.Chunk(
                    name=path.name,
                    generation=of.generation,
                    step=of.step,
                    node=self.node,
                    data=data,
                    sha256=b"" if left else digest.digest(),
                )

    def keep(self, chunks: Iterator[wire.Chunk]) -> None:
        """Keeps a neighbour's copy; the file is there once all of it is, and as it was sent.

        Raises:
            BadInput: it did not arrive as it was sent.
        """
        receive(chunks, self.scratch / KEPT)

    def pass_on(self, neighbour: str) -> None:
        """Passes on the newest copies of steps that are passed on (nebula.runtime.memory_copy).

        A file at a time, in a thread and not too often.
        """
        if not neighbour or (self._passing and not self._passing.done()) or time.monotonic() < self._not_before_s:
            return
        for path in sorted((self.scratch / OWN).glob("*.alone.[23]")):
            of = stamp(path)
            if of and self._passed.get(path.name) != of:
                self._passed[path.name] = of
                self._passing = self._pool.submit(self._pass, neighbour, f"{OWN}/{path.name}")
                return

    def _pass(self, neighbour: str, name: str) -> None:
        began_s = time.monotonic()
        try:
            with self.dial(neighbour) as channel:
                PeerStub(channel).Keep(self.chunks(name), timeout=30)
            self._give_up_the_beginning(self._passed.get(Path(name).name))
        except (grpc.RpcError, NebulaError):
            self._passed.pop(Path(name).name, None)  # a later one is tried
        took_s = time.monotonic() - began_s
        self._not_before_s = time.monotonic() + took_s * (1 / SHARE - 1)

    def _give_up_the_beginning(self, of: Stamp | None) -> None:
        """Removes what a generation began from, once its own copies of some steps are with neighbours."""
        if of is None:
            return
        self._passed_steps = {one for one in self._passed_steps if one[0] == of.generation} | {(of.generation, of.step)}
        if len(self._passed_steps) >= PASSED_FIRST:
            for one in (self.scratch / RESUME).iterdir():
                if int(one.name) <= of.generation:  # a later one has not begun yet
                    shutil.rmtree(one, ignore_errors=True)

    def prepare(self, generation: int, sources: Sequence[wire.Source], *, everything: bool) -> Path:
        """Puts the copies that a generation takes up into one folder.

        Args:
            everything: whether those of all ranks are needed.

        Raises:
            BadInput: they cannot be fetched, or do not make up the training.
        """
        begun_from = {Path(source.name).parent.name for source in sources}  # others may still fetch from there
        before = [one for one in (self.scratch / RESUME).iterdir() if one.name not in begun_from]
        folder = self.scratch / RESUME / str(generation)
        folder.mkdir()
        self._put_together(folder, sources, everything=everything)
        for one in before:
            shutil.rmtree(one)
        return folder

    def rescue(self, generation: int, sources: Sequence[wire.Source]) -> Path:
        """Writes copies as a checkpoint of their training; those of other nodes are fetched first.

        Args:
            generation: the newest that this node knows of; where a later one writes, nothing becomes visible.

        Returns:
            The checkpoint's folder.

        Raises:
            BadInput: they cannot be fetched, or do not make up the training.
            RunFailed: the disk refused.
        """
        folder = self.scratch / RESCUE
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            self._put_together(folder, sources, everything=True)
            return write_checkpoint(folder, lambda there: check_fence(there, {VARIABLE: str(generation)}))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _put_together(self, folder: Path, sources: Sequence[wire.Source], *, everything: bool) -> None:
        for source in sources:
            if source.node == self.node:
                target = self.path(source.name)
                os.link(target, folder / target.name)
        for source in sources if everything else ():
            if source.node != self.node and not (folder / Path(source.name).name).exists():
                self._fetch(source, folder)
        assemble(folder, everything=everything)

    def _fetch(self, source: wire.Source, folder: Path) -> None:
        """Once more where the line breaks: what cannot be fetched is not asked for by a later generation either."""
        for left in reversed(range(FETCHES)):
            try:
                with self.dial(source.address) as channel:
                    receive(PeerStub(channel).Fetch(wire.FetchRequest(name=source.name), timeout=120), folder)
                return
            except grpc.RpcError as error:
                why = error.details() if isinstance(error, grpc.Call) else error
                if not left:
                    raise BadInput(f"{source.name} cannot be fetched from {source.node}: {why}") from None
                time.sleep(AGAIN_S)

    def forget(self) -> None:
        """Removes all of them, as a test asks for."""
        for path in self.scratch.rglob("rank-*"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Forgets all of them."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self.scratch, ignore_errors=True)


def receive(chunks: Iterator[wire.Chunk], folder: Path) -> Path:
    """Writes a file that arrives in pieces; it has its name once it is whole.

    Raises:
        BadInput: its name is none of a copy, it did not arrive as it was sent, or there is no room for it.
    """
    digest, last, part = hashlib.sha256(), wire.Chunk(), folder / f".{os.getpid()}.{time.monotonic_ns()}"
    try:
        with part.open("xb") as file:
            for last in chunks:
                digest.update(last.data)
                file.write(last.data)
        if not _NAME.fullmatch(last.name):
            raise BadInput(f"{last.name!r} is no name of a copy")
        if last.sha256 != digest.digest():
            raise BadInput(f"{last.name} of {last.node} did not arrive as it was sent")
        return part.rename(folder / last.name)
    except OSError as error:
        raise BadInput(f"a copy cannot be kept in {folder}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
