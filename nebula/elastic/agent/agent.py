"""The agent of a node: one loop over what the controller says, what workers do (nebula.elastic.agent.work), and time.

Messages and the ends of processes wake it at once; between them it looks at the workers' progress. All state belongs
to the loop's thread. It refuses what carries an older epoch or generation than it has seen.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from nebula import __version__
from nebula.elastic.agent import environment
from nebula.elastic.agent.check import rates
from nebula.elastic.agent.copies import Copies
from nebula.elastic.agent.faults import inject
from nebula.elastic.agent.node import Node, Prepared
from nebula.elastic.agent.session import Lost, Session, Untrusted
from nebula.elastic.agent.work import Work
from nebula.elastic.chaos.values import Kind
from nebula.elastic.protocol import VERSION
from nebula.elastic.protocol import control_pb2 as wire
from nebula.errors import BadInput, RunFailed

LOOK_S = 0.05
"""How often the workers' progress is looked at."""


class Agent:
    """Runs until the job is over or it is told to leave."""

    def __init__(
        self, node: Node, copies: Copies, connect: Callable[..., Session], peer_port: int, say: Callable[[str], None]
    ) -> None:
        """Makes an agent that has not connected yet.

        Args:
            connect: makes its session, from a function that makes a Hello and one that hears.
            say: receives sentences for people.
        """
        self.node, self.say, self.peer_port = node, say, peer_port
        self.epoch, self.heartbeat_s = 0, 0.5
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._session = connect(self._hello, self.hear)
        self.work = Work(node, copies, self._poll, send=self._session.send, hear=self.hear, say=say)
        self._said_s, self._said, self._connected = 0.0, "", False
        self._left: wire.Leave | None = None
        self._leaving, self._noticed, self._instance = "", "", int.from_bytes(os.urandom(6), "little")

    def hear(self, message: Any) -> None:
        """Takes a message from any thread."""
        self._inbox.put(message)
        os.eventfd_write(self._wake, 1)

    def leave(self, because: str) -> None:
        """Asks the controller to let this node go; may be called from a signal handler."""
        self._leaving = self._noticed = because
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Works until the controller says that it is over.

        Raises:
            BadInput: the controller refuses this agent.
            RunFailed: the job failed.
        """
        self._session.start()
        try:
            while self._left is None:
                self._turn()
        finally:
            self.work.close()
            self._session.close()
        if self._left.failed:
            raise RunFailed(self._left.because)
        self.say(self._left.because)

    def _turn(self) -> None:
        for descriptor, _ in self._poll.poll(LOOK_S * 1000):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            elif self.work.owns(descriptor):
                self.work.ended(descriptor)
        while not self._inbox.empty():
            self._answer(self._inbox.get())
        if self._leaving and self._connected:
            self._session.send(leaving=wire.Leaving(because=self._leaving))
            self._leaving = ""
        if time.monotonic() - self._said_s >= self.heartbeat_s / 2:
            self._said_s = time.monotonic()
            self._beat()
        self.work.look(connected=self._connected)

    def _beat(self) -> None:
        """Says how far the workers are, and looks after the line."""
        self.work.tell_progress()
        self._session.look()
        if self._connected and self._session.renew():
            self.say("this node's certificate was renewed: the line to the controller is taken up again with it")

    def _answer(self, message: Any) -> None:
        if isinstance(message, Lost):
            if self._connected:
                self.say(f"the line to the controller broke ({message.why}); workers go on")
            self._connected = False
        elif isinstance(message, Untrusted):
            if not self.epoch:
                raise BadInput(message.why)
            self._say_once(message.why)
        elif isinstance(message, wire.Probed):
            self._session.send(probed=message)
        elif isinstance(message, wire.Rescued):
            self._session.send(rescued=message)
        elif isinstance(message, Prepared):
            self.work.begin(message)
        elif message.HasField("refusal"):
            self._refused(message.refusal)
        else:
            self._obey(message)

    def _obey(self, message: wire.ToAgent) -> None:
        """Does what the controller wants, unless another leads by now."""
        kind = message.WhichOneof("kind")
        value = getattr(message, kind)
        if value.epoch < self.epoch:
            self.say(f"refused {kind} of a controller of epoch {value.epoch}: epoch {self.epoch} leads")
            return
        self.epoch = value.epoch
        {
            "welcome": self._welcome,
            "start": self.work.start,
            "stop": self.work.stop,
            "leave": self._leave,
            "again": self.work.again,
            "probe": self._probe,
            "inject": self._inject,
            "beat": lambda _: None,
            "look": self.work.stand,
            "accuse": self.work.accused,
            "rescue": self.work.rescue,
        }[kind](value)

    def _refused(self, refusal: wire.Refusal) -> None:
        """An expired certificate is not the end: somebody may renew it, and the session asks again until then."""
        sentence = f"the controller refuses this agent: {refusal.sentence}"
        if not (refusal.passing and self.epoch):
            raise BadInput(sentence)
        self._say_once(f"{sentence}; it asks again with the newest in its folder")

    def _say_once(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            self.say(f"{sentence}; workers go on")

    def _hello(self) -> wire.Hello:
        return wire.Hello(
            protocol=VERSION,
            node=self.node.name,
            slots=self.node.slots,
            generation=self.work.whole,
            epoch=self.epoch,
            address=self.node.address,
            peer_port=self.peer_port,
            ports=self.work.ports.numbers,
            wall_s=time.time(),
            version=__version__,
            instance=self._instance,
            fitness=self.node.fitness,
            copies=self.work.idle_copies(),
        )

    def _welcome(self, welcome: wire.Welcome) -> None:
        self._connected, self.heartbeat_s, self.work.memory_every = True, welcome.heartbeat_s, welcome.memory_every
        self._leaving = self._noticed  # a controller that is new to it, or a line that broke, may not have heard it
        self.say(f"{self.node.name} joined {welcome.job}; its controller has epoch {welcome.epoch}")
        variables = environment.of_process(os.environ, welcome.environment, slots=self.node.slots)
        self.work.crew.environment = variables
        self.work.welcomed()

    def _leave(self, leave: wire.Leave) -> None:
        self._left = leave

    def _probe(self, probe: wire.Probe) -> None:
        """Tries the ways to others in a thread of its own."""

        def try_them() -> None:
            found = list(rates(probe.peers, self.work.copies.dial))
            self.hear(wire.Probed(rates=found))

        threading.Thread(target=try_them, name="probe", daemon=True).start()

    def _inject(self, asked: wire.Inject) -> None:
        if not self.node.allows_faults:
            self.say(f"refused to do {asked.fault}: this agent was started without --allow-faults")
            return
        self.say(f"a test asks for {asked.fault}")
        if asked.fault == Kind.TORN:
            self.work.tear()
        else:
            inject(asked, self.work.crew.ranks.get(asked.local), self._session, self.say)


def of_signal(agent: Agent) -> Mapping[signal.Signals, str]:
    """What a node is told before it is taken away, and how it is said."""
    told = {signal.SIGTERM: "its agent got SIGTERM", signal.SIGUSR1: "its agent got SIGUSR1, a notice of preemption"}
    for number, because in told.items():
        signal.signal(number, lambda *_, because=because: agent.leave(because))
    return told
