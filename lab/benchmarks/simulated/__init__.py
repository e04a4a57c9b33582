"""The simulator beside what was measured: seconds and bytes of answers, by strategy and channel."""
