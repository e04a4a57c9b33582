"""Bytes on the wire: messages to MQTT payloads and back, status documents to JSON and back.

::

    payload    = flag byte, body
    flag byte  = protocol version << 4 | compression            codec.py
    body       = msgpack [type, field, …], maybe compressed     wire.py, compression.py
    token ids  = a msgpack ``bin`` of LEB128 varints            tokens.py

Everything that comes from the network is bounded before it is allocated (limits.py) and refused with a
`RemoteProtocolError` that says what is wrong. A message unpacks to a size bounded by the bytes that it came in, and
its tokens by what the receiver can use, both before they are unpacked.
"""

from flexspec_mq.codec.codec import Codec
from flexspec_mq.codec.limits import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, MAX_STATUS_BYTES
from flexspec_mq.codec.wire import TooManyTokens

__all__ = ["MAX_BODY_BYTES", "MAX_PAYLOAD_BYTES", "MAX_STATUS_BYTES", "Codec", "TooManyTokens"]
