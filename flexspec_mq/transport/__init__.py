"""Moving bytes: the one place that knows MQTT, and its in-memory twin."""
