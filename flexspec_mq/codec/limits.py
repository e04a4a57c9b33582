"""How large anything from the network may be.

Counts of tokens stand beside the types, in `schemas.messages`.
"""

from __future__ import annotations

MAX_PAYLOAD_BYTES = 256 * 1024
"""Of one MQTT payload; the `max_packet_size` of our broker's configuration."""

MAX_BODY_BYTES = 1024 * 1024
"""Of one message after decompression."""

MAX_STATUS_BYTES = 16 * 1024
"""Of one JSON status document."""
