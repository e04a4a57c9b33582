"""Admission of each device's messages: decided by the device's name, before a message is read."""
