"""Texts that clients ask for by MQTT. `docs/asking.md` says how to ask.

| module | holds |
|---|---|
| `settings` | what the node is told of it when it starts |
| `request` | from a message to an ask: whose, where its answer goes, what is wanted |
| `clients` | how much a user may ask |
| `asks` | the link on which asks come, and their answers |
| `home_assistant` | how the node announces itself to a Home Assistant |

The text itself comes from `edge_node.text`, what may be asked from `edge_node.api`.
"""
