"""Requests and answers that the node persists: so that neither a restart nor a power cut loses one.

| module | holds |
|---|---|
| `entries` | a request with its state, and what is known of its text |
| `clock` | the clocks of the machine, for ages that do not jump |
| `records` | the rows of the file, each with a checksum |
| `file` | the SQLite file: opened, and made anew of what is whole where it is damaged |
| `texts` | what is known of a text without the file |
| `format_1` | files as they were written before, to be converted |
| `journal` | what is persisted, what happens to it, and how much it is at most |
| `outbox` | its thread, tokens that are written together, and what is to be gone on with |

The meaning of a key, and which texts are written, is decided in `edge_node.text.texts`.
"""
