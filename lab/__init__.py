"""The laboratory: what measures, simulates and shows FlexSpec MQ. Nothing that serves imports it."""
