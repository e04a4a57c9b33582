"""Making a head: chats in, a head folder out, and whether a worker would take it."""
