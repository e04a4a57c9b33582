"""What a text takes out of a device's battery: a model of counted things, and what real meters say."""
