"""What several benchmarks share: questions, rounds, loading a draft, capturing packets, a bare MQTT client."""
