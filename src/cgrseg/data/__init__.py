"""Labelled photos to samples: the folder format, the transforms, which sample comes at which step."""
