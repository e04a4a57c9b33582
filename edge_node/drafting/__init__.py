"""The edge's drafter: which engine runs its model, and the thread that it runs on."""
