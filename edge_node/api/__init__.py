"""An HTTP API in OpenAI's shapes, served by an edge node on loopback. `docs/edge-api.md` says how to use it.

| module | holds |
|---|---|
| `options`, `settings` | what the user says about it; what the API is told when it starts |
| `errors` | errors in OpenAI's shape, and which status each of ours gets |
| `fields`, `requests`, `messages` | from a JSON body to a `TextRequest`; what is refused, by name |
| `prompts` | from a `TextRequest` to token ids |
| `stops` | stop strings in a stream of text |
| `text` | one text that is written once and read by any number of requests |
| `writer` | writes a text: one session of the edge node |
| `texts` | all texts: the limit, and idempotency keys |
| `shapes` | OpenAI's response objects |
| `bodies`, `replies` | bytes in, bytes out, clients that go away |
| `metrics` | for Prometheus |
| `gate` | the key, the host's name, errors in one shape |
| `context`, `routes`, `app` | what each path does |
| `server`, `daemon` | the listening socket; node and API together |
"""
