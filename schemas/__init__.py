"""The wire messages: typed, validated, versioned."""
