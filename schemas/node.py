"""The view of an edge node that its page and ``flexspec top`` show: types of the events of its HTTP API.

``GET /v1/events`` is a stream of server-sent events. Each has a kind, which is the event's name, and one of these types
as its data: the whole of what it is about, not a difference. Whoever has the newest event of each kind, and of each
text, knows all. The node derives rates, shares and sentences once, for whoever shows them.
"""

from typing import Any, Literal

import msgspec

from schemas.openai import FlexspecUsage, Writer
from schemas.plan import LimitReport, VersionPlan
from schemas.status import CatalogueStatus, ConnectionStatus, EdgeStatus, WorkerStatus


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """The node's connection to its broker.

    Attributes:
        up: whether there is one.
        seconds: seconds since it came up, or was lost.
        losses: connections that were lost since the node started.
        rtt_ms: smoothed round trip to the worker of the newest text, without the worker's own time; null before any.
    """

    up: bool
    seconds: float
    losses: int = 0
    rtt_ms: float | None = None


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """The node itself; event ``node``, whenever something of it changes.

    Attributes:
        edge: name on topics.
        release: version of the program.
        model: name that a request without a model means.
        draft: the device's draft; ``none`` without one.
        connection: online, degraded or offline.
        not_ready: why no text can be written now; empty when one can.
        link: connection to the broker.
        texts: texts being written.
        tokens: tokens of texts that are over, since the node started.
        outbox: number of requests in the outbox by state; ``unread`` are answers that nobody has read.
        energy_j: energy of these texts; null where the node does not tell it.
        energy_source: where the joules come from, ``none`` without any.
        battery: charge of the device's battery in percent; null without one, and where nobody asks for it.
        limits: limits of the node's settings, as they stand.
    """

    edge: str
    release: str
    model: str
    draft: str
    connection: ConnectionStatus
    not_ready: str
    link: LinkView
    texts: int
    tokens: int
    outbox: dict[str, int] = {}
    energy_j: float | None = None
    energy_source: str = "none"
    battery: float | None = None
    limits: list[LimitReport] = []


class TextFigures(FlexspecUsage, frozen=True, kw_only=True):
    """Figures of one text so far, or of a whole one: those that `usage` tells, and these.

    Attributes:
        prompt_tokens: tokens of the prompt.
        tokens: tokens committed; those of a stop string, of an end of text and of an unfinished character as well.
        seconds: seconds since the request.
        first_token: seconds to the first commit; null before.
        rtt_ms: smoothed round trip without the worker's own time; null before a sample.
        polls: signs of silence, after which the node asked again.
        reopens: times that the text went on at a worker which did not know it.
        worker: worker that holds the session now.
    """

    prompt_tokens: int
    tokens: int
    seconds: float
    first_token: float | None
    rtt_ms: float | None
    polls: int
    reopens: int
    worker: str | None


class TextView(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is being written, or is just over; event ``text``, up to ten times a second while it goes on.

    Attributes:
        id: end of the answer's id in every API.
        state: ``queued`` before it has a session; ``writing``; ``waiting`` for a link, a worker or its turn; ``over``.
        why: whom it waits for, or the error that ended it; empty else.
        reason: why it ended, ``stop``, ``length`` or ``provisional``; empty before, and after an error.
        figures: null before it has a session.
        written: tokens by who wrote them; empty before it has a session.
        tokens_per_second: since the first token; null before that can be told.
        tokens_per_round: null before a round.
        time: where its time goes, in sentences.
        parts: milliseconds of the parts of a round that are known, the longest first; none while it waits.
    """

    id: str
    state: Literal["queued", "writing", "waiting", "over"]
    why: str = ""
    reason: str = ""
    figures: TextFigures | None = None
    written: dict[Writer, int] = {}
    tokens_per_second: float | None = None
    tokens_per_round: float | None = None
    time: str = ""
    parts: dict[str, float] = {}


class OutboxView(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the node keeps, with its answer.

    Attributes:
        id: end of the answer's id in every API.
        path: endpoint that it was sent to; ``mqtt`` for one by MQTT.
        mode: offline mode, ``hold``, ``provisional`` or ``deliver``.
        state: ``queued`` before it has a session; ``writing``; ``stale``, queued for so long that its user is asked;
            ``done``; ``failed``.
        accepted: when it came, in seconds since the Unix epoch.
        finished: when it was done or failed, likewise; null before. Time in which the machine was off is left out.
        read: somebody has read the answer to its end.
        tokens: confirmed tokens so far.
        prompt: first words of what is asked.
        error: reason of its failure, or of its waiting for its user; empty otherwise.
    """

    id: str
    path: str
    mode: str
    state: Literal["queued", "writing", "stale", "done", "failed"]
    accepted: float
    finished: float | None = None
    read: bool = False
    tokens: int = 0
    prompt: str = ""
    error: str = ""


class OutboxText(OutboxView, frozen=True, kw_only=True):
    """A request that the node keeps, and its text.

    Attributes:
        text: confirmed text so far.
        provisional: text of the draft behind it.
        reason: how it ended, ``stop``, ``length`` or ``provisional``; empty before, and after an error.
        figures: figures of the text; null before it has a session, and while it waits for the node's next start.
        request: the request as the node keeps it: its text (`spec`), and the form of its answer.
    """

    text: str = ""
    provisional: str = ""
    reason: str = ""
    figures: TextFigures | None = None
    request: dict[str, Any]


class OutboxList(msgspec.Struct, frozen=True, kw_only=True):
    """All requests that the node keeps, the newest last."""

    data: list[OutboxView]


class OutboxDropped(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was cancelled and forgotten.

    Attributes:
        dropped: always true.
    """

    id: str
    dropped: bool = True


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """How drafts are planned now, by version, and why; event ``plan``, each second while a text is being written."""

    data: list[VersionPlan]


class _Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the fleet in words: a worker, a device, or a version of the family.

    Attributes:
        condition: state in words.
        mood: whether that is good or bad, or news; empty for neither.
        load: texts or workers that it has now.
        facts: all else that is known.
    """

    name: str
    condition: str
    mood: Literal["good", "bad", "news", ""] = ""
    load: str
    facts: list[str]


class WorkerView(_Member, frozen=True, kw_only=True):
    """A worker.

    Attributes:
        age_s: seconds since its newest status came.
        status: newest status, without signature and credential.
    """

    age_s: float
    status: WorkerStatus


class DeviceView(_Member, frozen=True, kw_only=True):
    """An edge node that this one may read, and its newest status."""

    status: EdgeStatus


CatalogueState = Literal["canary", "stable", "draining", "retired"]


class VersionView(_Member, frozen=True, kw_only=True):
    """A version of the family in a catalogue.

    Attributes:
        digest: SHA-256 of its head's manifest, in hex.
        share: percent of new sessions that a canary takes.
        workers: workers that take new sessions of it now.
    """

    state: CatalogueState
    digest: str
    share: int = 0
    workers: int = 0


class CatalogueChange(msgspec.Struct, frozen=True, kw_only=True):
    """A catalogue that the node took up, and what it changed.

    Attributes:
        epoch: when it was issued, in seconds since the Unix epoch.
        changes: words, one for each version that is new, gone or in another state; empty where it was only renewed.
    """

    epoch: int
    changes: list[str]


class FleetView(msgspec.Struct, frozen=True, kw_only=True):
    """Workers, devices and versions, by retained statuses and the catalogue; event ``fleet``, whenever it changes.

    Attributes:
        workers: workers that are online or draining, by name.
        devices: devices that this node may read, itself among them, by name.
        blind: true where the broker lets the node read no worker's status.
        catalogue: state of the family's catalogue; null where the node follows no family.
        told: the same in sentences, what is wrong with it first.
        versions: versions of the family.
        history: catalogues since the node started, the newest first.
    """

    workers: list[WorkerView]
    devices: list[DeviceView]
    blind: bool = False
    catalogue: CatalogueStatus | None = None
    told: list[str] = []
    versions: list[VersionView] = []
    history: list[CatalogueChange] = []


NodeEvent = NodeView | TextView | PlanView | FleetView
EVENTS: dict[str, type[NodeEvent]] = {
    "node": NodeView,
    "text": TextView,
    "plan": PlanView,
    "fleet": FleetView,
}
"""Types of the events' data, by the events' names."""
