"""Parts of `connections`: thousands of devices at one broker, and what they, the broker and a worker take."""
