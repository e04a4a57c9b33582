"""Keys of a deployment: who is who, and what only the two ends of a session can make or read.

::

    deployment key    Ed25519; signs credentials and the statement        documents.py
    credential        role, name, versions and X25519 key of an identity  documents.py
    statement         opening keys of versions, revoked credentials       documents.py
    opening keys      X25519 of a version: whom an open is sealed to      agreement.py
    identity file     what a client is handed                             identity_file.py

`docs/security.md` says what these are trusted with, `docs/protocol.md` what travels.
"""
