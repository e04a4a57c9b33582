"""From answers to figures: means, worst tenths, ratios, intervals."""
