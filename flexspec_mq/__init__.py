"""FlexSpec MQ: speculative decoding between a frozen edge draft and an evolving cloud target, over MQTT."""

__version__ = "0.2.0"
