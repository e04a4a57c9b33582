"""How long anything of ours waits: timeouts, back-offs, patience. The only place for these numbers, on both sides.

A number that says how long to wait for somebody else, when to try again or when to take silence for an end stands here,
with its reason; rates, memories of estimates and lifetimes of caches do not. All are seconds unless they say otherwise.
`docs/reference/waits.md` shows the table that is made of the headings, names and docstrings below.

Three rules tie them together. Tries follow each other with exponential back-off and full jitter, whose upper bound is
small while a user waits. Whoever is silent is asked before it is given up. A wait for a user ends by that user's
patience, and by nothing shorter.
"""

from typing import Final

# Link to the broker, every daemon and command

CONNECT: Final = 5.0
"""Each of name resolution with TCP connect, TLS handshake, CONNACK and SUBACK."""
CONNECT_DOUBLES: Final = 3
"""Times that these double, but for the first, while the broker's machine is reached and they do not suffice: a crowd
whose devices give up too soon starves itself."""
ACKNOWLEDGE: Final = 10.0
"""Acknowledgement of a publish; then the connection is taken for dead."""
KEEPALIVE: Final = 30
"""Silence after which both sides probe; a dead peer is noticed after up to twice this."""
SILENCE: Final = (1.0, 5.0)
"""Bounds of the time without an answer after which another connection is tried beside the one that is silent. TCP has
repaired a packet or two by the lower one."""
REPLACE_EVERY: Final = 1.0
"""Between two such tries, at least."""
RETRY: Final = (0.2, 15.0)
"""Upper bound of the first wait before another try to connect, and of any; it doubles in between."""
RETRY_AWAITED: Final = 1.0
"""Upper bound of a wait before another try to connect while a text waits for the link: some 250 bytes a second."""
STEADY: Final = 5.0
"""Life of a connection below which the back-off is not reset."""
TCP_RETRY: Final = 2.0
"""Between two attempts of TCP to send what is not acknowledged, at most, where the system can be told so."""
TCP_GIVES_UP: Final = 900.0
"""Until TCP gives up, about as Linux does by itself."""
READ_AGAIN: Final = 0.004
"""Until a socket is read again whose messages nobody had room for."""
SESSION_EXPIRY: Final = 300
"""For which the broker keeps verdicts for a device that is away."""
PREFLIGHT: Final = 2.0
"""Look at the broker before a model is loaded."""
FAREWELL: Final = 1.0
"""Last messages of a daemon that leaves, and then DISCONNECT."""

# Session, at the device

RTO_UNKNOWN: Final = 1.0
"""Answer timeout (RTO) at least, until the worker's time for a forward is known."""
RTO: Final = (0.15, 5.0)
"""Bounds of the answer timeout, which follows the measured round trip."""
RTO_PEAK: Final = 1.0
"""By which a peak of the worker's own time makes the answer timeout longer than its newest does, at most."""
REPLY: Final = 0.75
"""Answer timeout at least where an answer waits for no forward, as that to an open or a poll. A worker that leaves a
poll unanswered for so long beside others of the version is opened elsewhere; each time without a new token after twice
the time, as texts that go from one busy worker to the next are written by none."""
ALONE: Final = 0.75
"""Without a word of anybody, or the answer timeout if that is more, after which the draft writes on alone where a
request lets it (`offline`): a reader takes a second without news for a fault."""
POLLS: Final = (1, 1, 2)
"""Answer timeouts from one sign of silence to the next where no other worker serves the version: polls after 1 and 2 of
them, another open after 4."""
POLLS_BESIDE: Final = 0.75
"""Between two polls without a new token beside other workers of the version, at most; or a quarter of the time since
the last token."""
POLLS_ANSWERED: Final = 32
"""Factor up to which the wait for the next poll doubles while polls are answered without a new token."""
REOPEN_MOST: Final = 8.0
"""Back-off between opens, which doubles from the timeout of replies: upper bound, before jitter adds up to a half."""
LINKED: Final = 0.2
"""Within which a session opens, at random, once the link is up again."""
IDLE: Final = 0.5
"""Without a new token beside other workers, until the next answer which says that no work waits: opens elsewhere."""
STALLED: Final = 20.0
"""Without a new token, although answers come and nobody says that the session waits for its turn: opens elsewhere."""
PATIENCE: Final = 120.0
"""Patience of a request that names none: without a new token, for whatever reason, after which it fails (`wait`)."""
QUEUED: Final = 900.0
"""The same while living workers say that it waits for its turn or for a place; of a request that names its patience
that is the bound of both."""
LEASE_LEAST: Final = 1.0
"""For which a lease is taken to last at least; one of 0 would have a device poll without end."""
KEY_ASKED: Final = 0.25
"""Between two answers to `key wanted` of one session."""

UNCLAIMED: Final = 600.0
"""For an answer that the broker has kept until the text goes on that it is of: a node that has started writes its texts
in turn, and each waits for a worker of its version."""

# Session, at the worker

LEASE: Final = 90
"""Silence of a device that ends a session (`lease`): after an outage of a minute texts are not read anew."""
STUCK: Final = 1.25
"""Without a new step, or four times the longest of late if that is more: sessions are no longer said to be queued."""
BUSY_UNKNOWN: Final = 0.5
"""Until a device comes back that a full worker refused which knows nothing of how long its sessions live."""
BUSY: Final = (0.05, 5.0)
"""Bounds of that time otherwise."""
BUSY_ELSEWHERE: Final = 0.05
"""The same where another worker will answer: this one drains, or does not hold the version."""
DELIVER: Final = 1.0
"""Silence of a device to which an answer shall be delivered, until its text is written on without its credit; and, once
that is over, until the answer is left at the broker."""
LEFT: Final = 5.0
"""After that, until the places of a device go to any other that wants one, which is not so for a link that flaps. A
device that is there asks after the longest answer timeout (`RTO`)."""
SHARED: Final = 0.005
"""For which tokens decoded unasked, and answers to further polls, may share a verdict."""
DRAIN: Final = 30.0
"""For sessions to end on SIGTERM (`drain`)."""

# Server of models, worker

SERVER_STARTS: Final = 900.0
"""For a server to be there when its worker starts: a large target is loaded for minutes."""
SERVER_SILENCE: Final = 120.0
"""For a whole answer that the server owes, or the next token of a stream: then it is taken for dead."""
SERVER_RETRY: Final = (0.1, 1.0)
"""Upper bound of the first wait before another try, and of any; it doubles in between."""
SERVER_GONE: Final = 3.0
"""Tries without success, after which the worker's sessions go elsewhere."""
SERVER_IDLE: Final = 4.0
"""Until a connection that nobody uses is closed: servers of models drop theirs after five."""
SERVER_LOOK: Final = 1.0
"""Between two looks at a server that is gone."""

# Grammars, device and worker

GRAMMAR_TRIAL_IDLE: Final = 300.0
"""Without a new grammar after which the process that tries them ends."""

# Statuses and catalogues

STATUS_EVERY: Final = 10.0
"""Between two statuses of a worker (`status_every`)."""
STALE: Final = 60.0
"""Without a status after which a worker counts as gone. Ages are measured at the reader: clocks of two machines
differ."""
STATUS_OLD: Final = 3600.0
"""Age, by the clocks of both machines, from which a device with keys takes a worker's status for a copy of an earlier
one; one whose own clock is behind takes none for that."""
DEVICE_STATUS_EVERY: Final = 2.0
"""Between two statuses of a device that follows a family and has news, at least."""
STATUS_RETAINED: Final = 0.3
"""For retained statuses of a version's workers to come, once the link is up."""
CATALOGUE_RETAINED: Final = 1.0
"""For a retained catalogue to come after subscribing."""
FOLLOWED: Final = 30.0
"""For which a device that writes nothing goes on following the statuses of workers; an idle one saves their bytes."""
FOLLOW_AFTER: Final = 1.0
"""Until a device that did not follow them does, once it writes."""
UNLINKED: Final = 10.0
"""For which a request that names no patience waits for the link until it has begun, as long as a user would; and
`flexspec-edge ask` for its first one."""
UNSERVED: Final = 1.0
"""For which nobody must serve a version, though there is a link, before a new request that names no patience is
refused: a worker may just be starting again. Without a link for so long, a text that the draft wrote alone may end."""
LOOK_DIRECTORY: Final = 0.25
"""Between two looks at what the statuses do not tell: catalogues and ages."""
LOOK_DATES: Final = 10.0
"""Between two looks of a device with keys whether the deployment's statement has expired."""
LOOK_CATALOGUE: Final = 10.0
"""Between two looks of a catalogue's follower at clock and disk."""
TARGET_TEXT: Final = 20.0
"""For a worker's document of its target's texts to come, and a tokenizer to be made of it."""
TARGET_TEXT_AGAIN: Final = 5.0
"""After which another worker is asked for what one has not told."""
HEAD_SERVER: Final = 30.0
"""Without a byte of a head's file after which its server counts as gone."""
HEAD_RETRY: Final = (1.0, 60.0)
"""Until a worker asks again for a head that could not be had: at first, and at most; it doubles in between."""
RESTORE: Final = (1.0, 30.0)
"""Until a worker puts back what a broker lost of a family, or twice as long: at first, and at most; it doubles while
that does not stay."""
REPAIR_EVERY: Final = 60.0
"""Between two catalogues of `flexspec head watch` that replace one that is no good, at least."""

# HTTP API

API_TEXT: Final = 600.0
"""For a whole text, waiting included (`api_timeout`)."""
ONE_TRY: Final = 0.5
"""For one attempt to connect, which a new text brings about while the link is down."""
HEAD: Final = 10.0
"""For a request's head to arrive, idle time between two requests included."""
BODY: Final = 30.0
"""For a request's body to arrive."""
SEND: Final = 60.0
"""For a client to take one part of an answer."""
SILENT_TEXT: Final = 2.0
"""Without a token after which whoever reads the text is told what it waits for, if it does."""
HEARTBEAT: Final = 15.0
"""Silence in a stream after which an SSE comment is sent."""
LOOK_WRITING: Final = 0.1
"""Between two looks at the node for whoever reads its events, while texts are written."""
LOOK_NODE: Final = 0.25
"""The same while none is."""
LOOK_FLEET: Final = 1.0
"""The same at fleet and plans."""
DATE: Final = 1.0
"""Between two renewals of the Date header, which counts seconds."""
GRACE: Final = 5.0
"""For texts to end when the server of the API stops."""
PROBE: Final = 5.0
"""For a request to `/healthz` or `/metrics` of a worker or broker to arrive and its answer to leave."""
SYSTEMD: Final = 1.0
"""For systemd to take a datagram."""
TELEMETRY: Final = 2.0
"""For a daemon that ends to export its last traces and metrics (`otel`)."""

# Outbox

OUTBOX_TOKENS: Final = 0.5
"""Between two writings of committed tokens to the outbox, of all texts together."""
OUTBOX_SWEEP: Final = 600.0
"""Between two looks for answers in the outbox that are too old."""
OUTBOX_ROOM: Final = 5.0
"""Between two looks whether there is room on the full disk of an outbox."""
OUTBOX_LOCKED: Final = 1.0
"""For another process to let go of the outbox's file."""

# Asks by MQTT

ASKED_STATUS: Final = 5.0
"""Between two statuses of a node for those who ask it by MQTT, at least."""
ASKER_TOLD: Final = 1.0
"""Between two answers to a user that asks more than it may."""
ANNOUNCED: Final = 5.0
"""Between two announcements of a node to Home Assistant, at least."""

# Commands

ASK_API: Final = 3.0
"""For the API of a device to answer `flexspec top --once` and the doctor."""
CHAT_CONNECT: Final = 5.0
"""For the API to take a connection of `flexspec chat`; it tries again for as long, with waits of 2 s at most."""
CHAT_RETRY: Final = (0.2, 2.0)
"""Bounds of these waits."""
PICTURES: Final = 0.1
"""Between two pictures of `flexspec top`, at least."""
PICTURE_AGED: Final = 1.0
"""Without news, until it draws another, which tells ages."""
EVENTS_SILENCE: Final = 40.0
"""Without a byte of a node's events, which has a comment every `HEARTBEAT`, until `flexspec top` asks it anew."""
CHAT_SILENCE: Final = 960.0
"""For which the API may say nothing to `flexspec chat`."""
PUBLISHED: Final = 5.0
"""For a catalogue to come back from the broker that `flexspec head` has published."""
PUBLISHED_SETTLES: Final = 0.5
"""After that, in which another publisher's would come."""
SAVED: Final = 5.0
"""For a broker that tells what is on its disk to have written it there."""
RETAINED: Final = 2.0
"""For what the broker retains to arrive, for `flexspec head` and the doctors."""
DOCTOR: Final = 60.0
"""For all checks of one daemon's setup (`flexspec doctor --within`)."""
DOCTOR_BROKER: Final = 5.0
"""For one answer of the broker to a doctor."""
DOCTOR_LISTENS: Final = 11.0
"""For which a doctor listens to statuses: workers renew theirs every 10 s."""
DOCTOR_TEXT: Final = 20.0
"""For the doctor's four tokens of text."""
DOCTOR_PATIENCE: Final = 12.0
"""Without a token after which that text fails."""

# Models

HUB: Final = 5.0
"""For the model hub to tell of a model that was not fetched before."""

# Demo

CHILD_READY: Final = 300.0
"""For a daemon that the demo has started to say something: it may load a model and prove it, on a busy machine."""
CHILD_ENDS: Final = 10.0
"""For it to end on SIGTERM before it is killed."""
BROKER_READY: Final = 30.0
"""For its broker to answer."""
PROXY: Final = 10.0
"""For its emulated network to connect to the broker, and to hand over the last bytes."""

# Broker

BRIDGE_KEEPALIVE: Final = 10
"""Silence after which a site's broker and the central one probe."""
BRIDGE_RETRY: Final = 1
"""Before a site's broker tries to reach the central one again."""
MOSQUITTO_STARTS: Final = 10.0
"""For Mosquitto to answer once it was started."""
MOSQUITTO_STOPS: Final = 5.0
"""For it to end on SIGTERM before it is killed, or to read its configuration again."""
MOSQUITTO_TAKES: Final = 5.0
"""For it to take a statement over its own socket; after as long again it is published again."""
APPLIED: Final = 10.0
"""For a broker that runs to take up a change of its deployment."""
FOLDER_BUSY: Final = 0.5
"""For commands that look whether a broker runs to get out of the way of one that starts."""
LOOK_DEPLOYMENT: Final = 1.0
"""Between two looks of a broker at its deployment's clients, and at their rates unless they send much."""
LOOK_SAVED: Final = 0.25
"""Between two looks of a broker at Mosquitto's database while it is written."""
SAVE_EVERY: Final = 1.0
"""From one writing of Mosquitto's database for a catalogue or key set to the next, at least."""
SAVE: Final = 30.0
"""For such a writing to end; then the next message causes another."""
