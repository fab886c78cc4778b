class Synthetic:
    pass
