"""Running language models: loading, packed forwards, verification, the draft."""
