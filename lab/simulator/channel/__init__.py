"""What carries messages between a simulated device and its worker: a constant way, or MQTT over TCP on a link."""
