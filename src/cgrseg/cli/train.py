"""`cgrseg train`: two folders of photos and masks in, a weights file out."""

from __future__ import annotations

from cgrseg.training.config import TrainConfig


def train(*, config: TrainConfig, resume: bool = False) -> int:
    """Train a model on labelled photos, or without --data on drawn scenes.

    A dataset folder holds images/{train,val,test}, masks/{train,val,test} and classes.json. The run folder gets
    best.safetensors and last.safetensors, which every verb takes as --weights, config.yaml, the log
    (train.jsonl), the scores (metrics.csv), pictures of both, and the state from which --resume goes on: to the
    same bits as a run that was never stopped.

    Args:
        resume: go on with the run in --out from its last state, or begin it where there is none
    """
    import sys
    from pathlib import Path

    from cgrseg.training.loop import train as run
    from cgrseg.training.progress import Stopped

    try:
        card = run(config, resume=resume)
    except Stopped as stop:
        print(f"cgrseg: {stop}", file=sys.stderr)
        return stop.exit_code
    if card is not None:
        print(f"{card['split']} mIoU {card['miou']} %, weights in {Path(config.out) / 'last.safetensors'}")
    return 0
