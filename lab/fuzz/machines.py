"""Both machines of the protocol, on a network that delivers changed copies of every message.

Messages of devices and workers are encoded, and copies are changed in their bytes, as an attacker would. They come
from the device itself, from another with the same sessions' numbers, and from workers. Texts must be the target's all
the same.
"""

import random
from collections.abc import Callable, Sequence

from flexspec_mq.codec import Codec, TooManyTokens
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError
from flexspec_mq.protocol.edge.session import close_unknown
from flexspec_mq.protocol.edge.types import EdgeState, SessionRequest
from flexspec_mq.protocol.effects import Effect, Reply, Send, WorkerEffect
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.session import MOST_HELD
from flexspec_mq.protocol.worker.types import WorkerConfig
from lab.fuzz.mutate import MESSAGES, mutant
from lab.simulator.world import (
    EDGE,
    VOCAB,
    Cell,
    ChangingPolicy,
    FakeTarget,
    Host,
    Link,
    World,
    held,
    identity,
)
from schemas.messages import MAX_VERDICT_TOKENS, Close, Delivery, Draft, Error, ErrorCode, Open, Poll, Verdict

WORKER, SESSION = "worker machine", "edge machine"
_CONTEXT = 512
_ROGUE = "rogue"
_SECONDS = 40.0
_COPIES = 4
"""Changed copies of each message at most."""
_MEMORY = 200
"""Messages from which pieces are taken."""
_PLANS = [
    Plan(draft_length, in_flight, 0, ahead, worker_draft=worker_draft)
    for draft_length, in_flight, ahead, worker_draft in (
        (4, 2, 0, 0),
        (1, 4, 40, 2),
        (0, 1, 6, 0),
        (8, 1, 0, 8),
    )
]


Received = list[tuple[str, str, bytes, float]]
"""Receiver, how it was read, the payload and microseconds, for each payload."""


class HostileWorld(World):
    """A world of which the network is hostile.

    Args:
        seed: seed of all chance.
        clock: nanoseconds of processor time.
    """

    def __init__(self, seed: int, clock: Callable[[], int]) -> None:
        rng = random.Random(seed)
        config = WorkerConfig(
            worker="w",
            versions=("v",),
            facts=held(_CONTEXT),
            capacity=4,
            lease=10,
            prefixes=4,
            prefix_ttl=15.0,
            deliver_for=60,
        )
        link = Link(rng, jitter=0.05, loss=0.05, duplicate=0.05)
        super().__init__(rng, FakeTarget(eos_every=40), link, 2, config, (0.02, 0.001))
        self.received: Received = []
        self._clock_ns = clock
        self._worker_codec, self._edge_codec = Codec(_CONTEXT + 64), Codec(MAX_VERDICT_TOKENS)
        self._past: list[bytes] = [b"\x10"]
        for number in range(3):
            prompt = tuple(rng.randrange(VOCAB - 1) for _ in range(rng.choice((1, 5, 60))))
            wanted = SessionRequest(
                session=1 + number,
                version="v",
                identity=identity(seed=seed + number),
                prompt=prompt,
                deliver=60 * (number % 2),
            )
            self.add(wanted, ChangingPolicy(_PLANS, rng), 0.7)

    def _deliver(self, host: Host, send: Send, version: str | None) -> None:
        if not host.alive or host.hung:
            return
        payload = self._worker_codec.encode(send.message)
        for one in self._with_copies(payload):
            edge = EDGE if one is payload or self.rng.random() < 0.7 else _ROGUE
            named = (
                version
                if one is payload or self.rng.random() < 0.8
                else self.rng.choice((None, "v", "other"))
            )
            began = self._clock_ns()
            effects, how = self._at_worker(host, one, edge, send.qos, named)
            took = self._clock_ns() - began
            self.received.append((WORKER, how, one, took / 1000))
            self._worker(host, effects)
            self._check_bounds(host.machine)

    def _check_bounds(self, machine: WorkerMachine) -> None:
        """Messages of others never make a worker hold more than it is set to.

        Raises:
            LocalProtocolError: it does.
        """
        held_back = max((len(session.held) for session in machine.sessions.values()), default=0)
        for what, count, most in (
            ("sessions", len(machine.sessions), 2 * self.config.capacity),
            ("texts", machine.prefixes, self.config.prefixes),
            ("batches of a session", held_back, MOST_HELD),
        ):
            if count > most:
                raise LocalProtocolError(f"{count} {what} are held, more than {most}")

    def _at_worker(
        self, host: Host, payload: bytes, edge: str, qos: int, version: str | None
    ) -> tuple[list[WorkerEffect], str]:
        """As the daemon does it, up to the bytes of the answers."""
        machine, how = host.machine, "refused: "
        effects: list[WorkerEffect] = []
        try:
            message = self._worker_codec.decode(payload)
            how = type(message).__name__
            if isinstance(message, Open | Draft | Poll | Close):
                effects = machine.receive(edge, message, self.now, qos, version)
            else:
                how = f"refused: {how}"
        except TooManyTokens as error:
            how += error.message
            effects = machine.refuse(
                edge, error.session, error.attempt, ErrorCode.CONTEXT, error.message, qos
            )
        except RemoteProtocolError as error:
            how += error.message
        replies = [effect for effect in effects if isinstance(effect, Reply)]
        for reply in replies:
            self._worker_codec.encode(reply.message)
        answered = ",".join(
            reply.message.code.name if isinstance(reply.message, Error) else "verdict" for reply in replies
        )
        return effects, f"{how}:{answered}" if answered else how

    def _worker(self, host: Host, effects: Sequence[WorkerEffect]) -> None:
        """Answers to others are lost."""
        super()._worker(host, [one for one in effects if not isinstance(one, Reply) or one.edge == EDGE])

    def _to_edge(self, message: Verdict | Delivery | Error) -> None:
        payload = self._edge_codec.encode(message)
        for one in self._with_copies(payload):
            began = self._clock_ns()
            cell, effects, how = self._at_edge(one)
            took = self._clock_ns() - began
            self.received.append((SESSION, how, one, took / 1000))
            if cell is not None:
                self.edge(cell, effects)
                self.check(cell)

    def _at_edge(self, payload: bytes) -> tuple[Cell | None, Sequence[Effect], str]:
        try:
            message = self._edge_codec.decode(payload)
        except RemoteProtocolError as error:
            return None, (), f"refused: {error.message}"
        how = type(message).__name__
        if not isinstance(message, Verdict | Delivery | Error):
            return None, (), f"refused: {how}"
        cell = next((one for one in self.cells if one.request.session == message.session), None)
        if cell is None:
            if isinstance(message, Verdict | Delivery):
                close_unknown(message)
            return None, (), f"{how}: unknown session"
        effects = cell.machine.receive(message, self.now)
        for effect in effects:
            if isinstance(effect, Send):
                self._edge_codec.encode(effect.message)
        return cell, effects, f"{how}: {cell.machine.state}"

    def _publish(self, cell: Cell, send: Send) -> None:
        """A message to a worker that only a changed message has named reaches nobody."""
        if send.to_worker is None or any(host.name == send.to_worker for host in self.hosts):
            super()._publish(cell, send)

    def _with_copies(self, payload: bytes) -> list[bytes]:
        """The payload, and others like it, in any order."""
        found = [payload]
        for _ in range(self.rng.randint(0, _COPIES)):
            seed = payload if self.rng.random() < 0.7 else self.rng.choice(self._past)
            found.append(mutant(self.rng, seed, self._past, MESSAGES))
        self._past = [*self._past[-_MEMORY:], payload]
        self.rng.shuffle(found)
        return found


def run(seed: int, clock: Callable[[], int]) -> Received:
    """A case: some texts over a hostile network, until they end or their time is over.

    Raises:
        Exception: a machine did what it must not; whatever it is.
    """
    world = HostileWorld(seed, clock)
    if seed % 3 == 0:
        world.at(3.0, lambda: world.crash(world.hosts[0]))
    until = world.now + _SECONDS
    while world.step(until) and any(cell.machine.state is not EdgeState.DONE for cell in world.cells):
        pass
    for cell in world.cells:
        world.check(cell)
    return world.received
