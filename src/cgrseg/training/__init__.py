"""From labelled photos to weights."""
