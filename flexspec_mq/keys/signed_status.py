"""Statuses that their worker signs: JSON whose last field is a signature over the document without that field.

The signature is over the bytes as they travel, so nobody encodes a document a second time to check it.
"""

from __future__ import annotations

import binascii
from typing import Final

from flexspec_mq.ed25519 import SigningKey, verifies

_DOMAIN: Final = b"flexspec status 1\0"
_FIELD, _END = b',"signature":"', b'"}'
_BASE64: Final = 88
"""Characters of an Ed25519 signature."""


def sign_status(document: bytes, key: SigningKey) -> bytes:
    """Put a signature into a JSON object that is not empty."""
    signature = binascii.b2a_base64(key.sign(_DOMAIN + document), newline=False)
    return document[:-1] + _FIELD + signature + _END


def is_signed(payload: bytes, public: bytes) -> bool:
    """Whether the owner of an Ed25519 public key has signed a status."""
    body, field, rest = payload.rpartition(_FIELD)
    if not field or len(rest) != _BASE64 + len(_END) or not rest.endswith(_END):
        return False
    try:
        signature = binascii.a2b_base64(rest[:_BASE64], strict_mode=True)
    except binascii.Error:
        return False
    return verifies(public, signature, _DOMAIN + body + b"}")
