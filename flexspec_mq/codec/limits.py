"""How large anything from the network may be.

Counts of tokens stand beside the types, in `schemas.messages`.
"""

MAX_PAYLOAD_BYTES = 256 * 1024
"""Bytes of an MQTT payload; the `max_packet_size` of our broker's configuration."""

MAX_BODY_BYTES = 1024 * 1024
"""Bytes of a message after decompression."""

MAX_EXPANSION = 32
"""Bytes of a message for each compressed byte that it came in: whoever wants us to read much has to send much.
Prompts of prose and code have 1.5 to 2.4, 8,000 tokens of an HTML table 25. A sentence, many times over, has more
and travels as it is."""

FREE_BYTES = 1024
"""Bytes that a message may always unpack to, however few it came in: more than any verdict of text has."""

MAX_STATUS_BYTES = 16 * 1024
"""Bytes of a JSON status document."""
