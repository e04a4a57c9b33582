"""Parts of the benchmark of capacity: strategies, figures, a modelled accelerator in virtual time, a real worker."""
