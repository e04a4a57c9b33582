"""The draft model as devices load it; `training.draft` makes it. Importing this package imports no torch."""
