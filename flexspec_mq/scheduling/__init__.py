"""Choice of what a worker computes next, and for whom: pure rules of slots, drafts and prompts without a clock."""
