"""What the examples that ship were trained on: prompts of the draft, chats of the heads."""
