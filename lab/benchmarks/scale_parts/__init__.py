"""Parts of the benchmark of scale: null models, load generators, processor time, and the three sections."""
