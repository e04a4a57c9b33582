"""Programs that run off line: training the frozen draft, and heads of new target versions."""
