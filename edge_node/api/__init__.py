"""HTTP APIs in OpenAI's and Ollama's shapes, served by an edge node on loopback. `docs/api.md` says how to use it.

| module | holds |
|---|---|
| `settings` | what the API is told when it starts |
| `errors` | errors in each API's shape, and which status each of ours gets |
| `bodies`, `requests` | from bytes, by the types of `schemas.openai`, to a `TextRequest` |
| `chat` | completions and chat completions in OpenAI's shapes, of the same types |
| `ollama` | Ollama's API, by the types of `schemas.ollama` |
| `sending` | texts on their way to a client, who may go away, in the `Form` of any API |
| `auth` | the key, the host's name, the bound of requests, errors in one shape, an `x-request-id` on every answer |
| `serving` | the state that all paths share; texts that requests ask for |
| `app` | what each path does |
| `client` | one request to such an API, for commands on the same machine |
| `connections` | how many connections, and how long each may take to ask for something |
| `server` | the listening socket; node and API together |

The text itself comes from `edge_node.completion`.
"""
