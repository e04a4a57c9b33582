"""HTTP APIs in OpenAI's and Ollama's shapes, served by an edge node on loopback. `docs/api.md` says how to use it.

| module | holds |
|---|---|
| `settings` | what the API is told when it starts |
| `errors` | errors in each API's shape, and which status each of ours gets |
| `http` | connections, bodies, who may ask: key, host's name, bound of requests, an `x-request-id` on every answer |
| `forms` | what any API reads as a `TextRequest`, and how its texts look, a `Form` |
| `requests`, `chat` | chats and completions of OpenAI's, by the types of `schemas.openai` |
| `responses`, `kept_responses` | OpenAI's Responses, and those that later ones go on from |
| `ollama` | Ollama's API, by the types of `schemas.ollama` |
| `sending` | texts on their way to a client, who may go away, in the `Form` of any API |
| `outbox`, `events`, `page` | requests that the node keeps, and what it shows of itself |
| `serving` | the state that all paths share; texts that requests ask for |
| `app` | what each path does |
| `client` | one request to such an API, for commands on the same machine |
| `server` | the listening socket; node and API together |

The text itself comes from `edge_node.text`.
"""
