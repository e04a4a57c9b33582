"""An HTTP API in OpenAI's shapes, served by an edge node on loopback. `docs/edge-api.md` says how to use it.

| module | holds |
|---|---|
| `options`, `settings` | what the user says about it; what the API is told when it starts |
| `errors` | errors in OpenAI's shape, and which status each of ours gets |
| `validation`, `requests`, `messages` | from a JSON body to a `TextRequest`; what is refused, by name |
| `responses` | OpenAI's response objects |
| `request_body`, `streaming` | bytes in, bytes out, clients that go away |
| `metrics` | for Prometheus |
| `auth` | the key, the host's name, errors in one shape |
| `state`, `routes`, `app` | what each path does |
| `server`, `daemon` | the listening socket; node and API together |

The text itself comes from `edge_node.completion`.
"""
