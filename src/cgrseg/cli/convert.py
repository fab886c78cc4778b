"""`cgrseg convert`: a released CGRSeg checkpoint becomes a weights file of ours."""

from __future__ import annotations


def convert(source: str, *, out: str, classes: str | None = None, model: str | None = None) -> int:
    """Turn a released CGRSeg checkpoint into a weights file of ours.

    Only its tensors are read: a file that holds other pickled objects is refused, nothing in it is run. The
    weights keep the released arithmetic (bias mode "official") and the paper's test size (short side 512).

    Args:
        source: the checkpoint (.pth, .pt, .bin or .safetensors)
        out: the weights file to write (.safetensors); it must not exist yet
        classes: a classes.json with names and colours; default: numbered classes
        model: cgrseg_t, cgrseg_b or cgrseg_l; default: what the checkpoint's shapes say
    """
    from pathlib import Path

    target = Path(out)
    if target.exists():
        raise FileExistsError(f"{out} exists already: choose another --out, or remove it first")

    from cgrseg.labels import LabelSpace
    from cgrseg.nn import CGRSeg, build
    from cgrseg.preprocessing import Preprocessing
    from cgrseg.weights.adapters import load_official, released_spec
    from cgrseg.weights.artifact import save
    from cgrseg.weights.checkpoint_reader import read_state

    labels = None if classes is None else LabelSpace.from_classes_json(classes)
    state = read_state(source)
    try:
        spec = released_spec(state)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if labels is not None and len(labels) != spec.num_classes:
        raise ValueError(
            f"{classes} lists {len(labels)} classes, {source} tells {spec.num_classes} apart: "
            "give the list that the checkpoint was trained with"
        )
    if model is None:
        network = CGRSeg(spec=spec)
    else:
        network = build(model, num_classes=spec.num_classes, context_blocks=spec.context_blocks)
    report = load_official(network, state)
    if report.missing:
        raise ValueError(f"{source} lacks {len(report.missing)} tensors, first {report.missing[0]}: it is incomplete")
    save(
        network,
        target,
        labels=labels,
        preprocessing=Preprocessing(short_side=512, long_side=2048, pad_multiple=32),
        card={"source": Path(source).name},
    )
    print(f"{Path(source).name}: {network.spec.name} on {network.spec.backbone}, {spec.num_classes} classes")
    print(f"{report}\nweights in {out}")
    return 0
