"""What a worker computes next, and for whom: pure rules of rows, drafts and prompts, told times and given none."""
