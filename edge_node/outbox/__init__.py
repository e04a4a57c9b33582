"""Requests and answers that the node keeps: on disk, so that neither a restart nor a power cut loses one.

| module | holds |
|---|---|
| `entries` | a request with its state, and what is known of its text |
| `clock` | the clocks of the machine, for ages that do not jump |
| `journal` | the SQLite file, and what it holds at most |
| `outbox` | its thread, tokens that are written together, and what is to be gone on with |

The meaning of a key, and which texts are written, is decided in `edge_node.text.texts`.
"""
