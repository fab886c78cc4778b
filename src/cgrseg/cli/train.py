"""`cgrseg train`: two folders of photos and masks in, a weights file out."""

from __future__ import annotations


def train(
    *,
    data: str,
    out: str,
    model: str = "cgrseg_t",
    init: str | None = None,
    steps: int = 4000,
    batch: int = 16,
    crop: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    warmup: int = 200,
    short_side: int | None = None,
    scale: tuple[float, float] = (0.5, 2.0),
    bf16: bool = True,
    seed: int = 0,
    workers: int = 1,
    device: str = "auto",
) -> int:
    """Train on a folder with images/{train,val,test}, masks/{train,val,test} and classes.json.

    Args:
        data: the dataset folder.
        out: the run folder; the weights are written to OUT/last.safetensors, the log to OUT/train.csv.
        model: cgrseg_t, cgrseg_b, cgrseg_l or cgrseg_n.
        init: weights to start from, a file or a bundled name; default: fresh ones
        steps: optimizer steps.
        batch: crops a step.
        crop: side of a crop in pixels.
        lr: AdamW's peak learning rate; it warms up, then falls linearly to zero.
        weight_decay: of kernels; norms, biases and scales are free of it.
        warmup: steps up to the peak.
        short_side: the photo's shorter side in pixels, at which it is judged and around which it is scaled;
            default: the dataset's median.
        scale: smallest and largest random enlargement before the crop.
        bf16: autocast to bfloat16.
        seed: decides every crop and every start value.
        workers: processes that read and crop.
        device: auto, cpu or cuda.
    """
    from cgrseg.training.loop import TrainConfig
    from cgrseg.training.loop import train as run

    config = TrainConfig(
        data=data,
        out=out,
        model=model,
        init=init,
        steps=steps,
        batch=batch,
        crop=crop,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        short_side=short_side,
        scale=scale,
        bf16=bf16,
        seed=seed,
        workers=workers,
        device=device,
    )
    path, card = run(config)
    print(f"{card['split']} mIoU {card['miou']} %, weights in {path}")
    return 0
