"""Data that the shipped draft and heads were trained on: prompts and chats."""
