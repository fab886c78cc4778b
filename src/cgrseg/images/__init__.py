"""The lowest layer: image files, label maps as pictures, atomic writes."""
