"""Speculation between device and cloud as it is usually done, to compare with: K guesses a round, and then a wait.

The device drafts K tokens, sends them, and waits for what the target says to them; nothing overlaps but the reading
of the prompt. Beside a guess travels the draft's whole distribution, or nothing. These messages are no part of
`schemas`; only ``flexspec bench`` starts what speaks them.
"""
