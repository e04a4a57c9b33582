"""Energy that a text takes out of a device's battery: a model of counted things, and real meters."""
