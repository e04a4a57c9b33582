"""HTTP APIs in OpenAI's and Ollama's shapes, served by an edge node on loopback. `docs/api.md` says how to use it.

| module | holds |
|---|---|
| `settings` | what the API is told when it starts |
| `errors` | errors in each API's shape, and which status each of ours gets |
| `http` | connections, bodies, who may ask: key, host's name, bound of requests, an `x-request-id` on every answer |
| `forms` | what any API reads as a `TextRequest`, and how its texts look, a `Form` |
| `conversation`, `response_store` | turns from any API's messages; OpenAI's Responses that later ones go on from |
| `openai` | chats and completions of OpenAI's, by the types of `schemas.openai`, and its Responses |
| `ollama` | Ollama's API, by the types of `schemas.ollama` |
| `parsers` | which of them reads what comes on a path |
| `sending` | texts on their way to a client, who may go away, in the `Form` of any API |
| `serving` | the state that all paths share; texts that requests ask for |
| `views` | models, requests that the node keeps, what it shows of itself, the page |
| `app` | what each path does |
| `client` | one request to such an API, for commands on the same machine |
| `server` | the listening socket; node and API together |

The text itself comes from `edge_node.text`.
"""
