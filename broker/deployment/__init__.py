"""A deployment on disk: who may connect, as what, what each was given, and what is signed."""
