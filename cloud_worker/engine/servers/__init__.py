"""An engine over somebody else's server of models, which is asked over HTTP and runs as it is."""
