"""Choice of what a worker computes next, and for whom: pure rules of rows, drafts and prompts without a clock."""
