"""How long anything of ours waits: timeouts, back-offs, patience, on both sides.

Five bases, and what is of another kind. Whatever else waits for somebody, tries again or takes silence for an end does
so after a factor of one of these, which stands where it is used, as in ``2 * waiting.CONNECT``; rates, memories of
estimates and lifetimes of caches have nothing to do with them. All are seconds. `docs/reference/waits.md` shows the
table that is made of the headings, names and docstrings below.

Three rules tie them together. Tries follow each other with exponential back-off and full jitter, whose upper bound is
small while a user waits. Whoever is silent is asked before it is given up. A wait for a user ends by that user's
patience, and by nothing shorter.
"""

from typing import Final

# Bases

ANSWER: Final = 1.0
"""Within which somebody over the network answers, as far as is known before a round trip was measured: the first answer
timeout (RTO) of RFC 6298 (`answer_timeout`)."""
PATIENCE: Final = 120.0
"""Patience of a request that names none: without a new token, for whatever reason, after which it fails (`wait`)."""
LEASE: Final = 90
"""Silence of a device that ends a session (`lease`): after an outage of a minute texts are not read anew."""
RETRY: Final = (0.2, 15.0)
"""Upper bound of the first wait before another try, and of any; it doubles in between."""
STATUS: Final = 10.0
"""Between two statuses of a worker (`status_every`)."""

# Link to the broker, every daemon and command

CONNECT: Final = 5 * ANSWER
"""Each of name resolution with TCP connect, TLS handshake, CONNACK and SUBACK; any other short exchange with a program
that runs, such as an API, a broker's process or the model hub."""
KEEPALIVE: Final = 30
"""Silence after which both sides probe, and a dead peer is noticed after up to twice this; for anything else that keeps
coming in parts, such as a request's body or a file."""
RETRY_AWAITED: Final = 1.0
"""Upper bound of a wait before another try while somebody waits for its outcome; to connect, some 250 bytes a
second."""
SESSION_EXPIRY: Final = 300
"""For which the broker keeps verdicts for a device that is away."""
RETAINED: Final = 2 * ANSWER
"""For what the broker retains to arrive, where all of it matters; 0.3 of an answer's time where a user waits."""
FAREWELL: Final = 1.0
"""Last messages of a daemon that leaves, and then DISCONNECT; for anything else that is about to end."""

# Sessions

RTO_LEAST: Final = 0.15
"""Answer timeout (RTO) at least. It follows the measured round trip, up to five times the first."""
STALLED: Final = 20.0
"""Without a new token, although answers come and nobody says that the session waits for its turn: opens elsewhere; for
a worker's document of its target's texts, and for the doctor's text."""
QUEUED: Final = 900.0
"""Patience while living workers say that a text waits for its turn or for a place; where a request names its patience
that is the bound of both. For a server of models that loads a large target."""
UNLINKED: Final = 10.0
"""For which a request that names no patience waits for the link until it has begun, as long as a user would; and
`flexspec-edge ask` for its first one."""
BUSY: Final = (0.05, 5.0)
"""Bounds of the time until a device comes back that a full worker refused; the lower one where another worker will
answer."""

# Daemons, disks and screens

STALE: Final = 6 * STATUS
"""Without a status after which a worker counts as gone. Ages are measured at the reader: clocks of two machines
differ."""
STARTS: Final = 300.0
"""For a program of ours to say something once it was started: it may load a model and prove it, on a busy machine."""
LOOK: Final = 0.25
"""Between two looks at what tells nobody when it changes: a node's state for its page, ages of statuses, a database
that is being written; 0.1 s while texts are written, 1 s for what changes slowly."""
OUTBOX_TOKENS: Final = 2.0
"""Between two writings of committed tokens to the outbox, of all texts together."""
