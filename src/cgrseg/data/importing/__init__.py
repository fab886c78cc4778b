"""import-data: the annotations of labelling tools become a dataset in the folder format; one file per format."""
