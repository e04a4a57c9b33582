"""OpenAI's APIs: chats, completions and responses, from a body to a request, and from texts to answers."""
