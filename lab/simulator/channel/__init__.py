"""Channel between a simulated device and its worker: MQTT over TCP on a link."""
