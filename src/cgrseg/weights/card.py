"""The model card of a weights file for the Hugging Face hub, made from its description."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import yaml

from cgrseg.description import Description

WEAK = 30.0  # per cent IoU below which a class is called weak
SCORES = {"miou": ("mean_iou", "mIoU"), "mean_accuracy": ("mean_accuracy", "mean accuracy")}
SCORES |= {"accuracy": ("accuracy", "pixel accuracy")}
PAPER = """@inproceedings{ni2024cgrseg,
  title     = {Context-Guided Spatial Feature Reconstruction for Efficient Semantic Segmentation},
  author    = {Ni, Zhenliang and Chen, Xinghao and Zhai, Yingjie and Tang, Yehui and Wang, Yunhe},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2024}
}"""


def config(description: Description) -> dict[str, Any]:
    """config.json: the spec, the classes (also in transformers' format) and the preprocessing."""
    names = description.labels.names
    return {
        "model_type": "cgrseg",
        **dataclasses.asdict(description.spec),
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "preprocessing": description.preprocessing.to_dict(),
        "labels": description.labels.to_dict(),
        "card": description.card,
    }


def model_card(description: Description, card: Mapping[str, Any], *, repository: str, license: str) -> str:
    """README.md of a hub repository: use, classes, data, recipe, scores, limits, terms, citation.

    Args:
        description: of the weights file.
        card: its card, with "terms" of the data and, where known, "limits".
        repository: "USER/NAME".
        license: of the weights, in the hub's spelling.
    """
    spec, name = description.spec, repository.rpartition("/")[2]
    front = yaml.safe_dump(_front(description, card, name, license), sort_keys=False, allow_unicode=True)
    recipe = card.get("recipe")
    start = card.get("init")
    return "\n".join(
        [
            f"---\n{front}---\n",
            f"# {name}\n",
            f"Semantic segmentation with CGRSeg (ECCV 2024): {spec.name} on {spec.backbone}, "
            f"{spec.num_classes} classes.\n",
            "## Use\n",
            f"```python\nimport cgrseg\n\nsegmentation = cgrseg.Segmenter('hf:{repository}')('photo.jpg')"
            "\nsegmentation.areas()\nsegmentation.overlay().save('overlay.png')\n```\n",
            f"On the command line: `cgrseg predict photos/ --weights hf:{repository} --out labelled/`.\n",
            "## Data\n",
            f"{_data(card) or 'Not recorded.'}\n\nTerms of the data: {card['terms']}\n",
            "## Recipe\n",
            f"```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```\n" if recipe else "Not recorded.\n",
            *(["Training started from other weights with this card:\n", _block(start)] if start else []),
            "## Scores\n",
            _scores(card),
            "## Classes\n",
            _classes(description, card),
            "## Limits\n",
            f"{card.get('limits') or _limits(card)}\n",
            "## How to cite\n",
            f"Please cite the paper of the model:\n\n```bibtex\n{PAPER}\n```\n",
        ]
    )


def _front(description: Description, card: Mapping[str, Any], name: str, license: str) -> dict[str, Any]:
    """The YAML header that the hub reads: tags and scores."""
    front: dict[str, Any] = {
        "library_name": "cgrseg",
        "pipeline_tag": "image-segmentation",
        "license": license,
        "tags": ["semantic-segmentation", "cgrseg", description.spec.name],
    }
    metrics = [{"type": kind, "name": f"{word}, %", "value": card[key]} for key, (kind, word) in _known(card).items()]
    if metrics:
        data = _data(card) or "not recorded"
        slug = re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-")
        result = {
            "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
            "dataset": {"type": slug, "name": data, "split": str(card.get("split", "test"))},
            "metrics": metrics,
        }
        front["model-index"] = [{"name": name, "results": [result]}]
    return front


def _known(card: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {key: words for key, words in SCORES.items() if isinstance(card.get(key), int | float)}


def _data(card: Mapping[str, Any]) -> str:
    recipe = card.get("recipe")
    return str(card.get("data") or (recipe.get("data") if isinstance(recipe, Mapping) else None) or "")


def _scores(card: Mapping[str, Any]) -> str:
    if not (known := _known(card)):
        return "None recorded.\n"
    rows = [f"| {word}, % | {card[key]} |" for key, (_, word) in known.items()]
    where = f"On the {card.get('split', 'test')} split" + (f", {card['date']}" if "date" in card else "")
    return "\n".join([f"{where}:\n", "| score | value |", "|---|---|", *rows, ""])


def _classes(description: Description, card: Mapping[str, Any]) -> str:
    ious = card.get("class_iou")
    ious = ious if isinstance(ious, Mapping) else {}
    rows = [
        f"| {index} | {name.replace('|', chr(92) + '|')} | #{red:02x}{green:02x}{blue:02x} | {ious.get(name, '')} |"
        for index, (name, (red, green, blue)) in enumerate(
            zip(description.labels.names, description.labels.colors, strict=True)
        )
    ]
    return "\n".join(["| id | name | colour | IoU, % |", "|---|---|---|---|", *rows, ""])


def _limits(card: Mapping[str, Any]) -> str:
    """Limitations that follow from the scores."""
    text = "The model works on images like those of its training. On others it can be wrong with high confidence."
    ious = card.get("class_iou")
    if isinstance(ious, Mapping):
        weak = [str(name) for name, iou in ious.items() if isinstance(iou, int | float) and iou < WEAK]
        text += f" Weak classes (below {WEAK:.0f} % IoU): {', '.join(weak)}." if weak else ""
    return text + " Not for decisions about people."


def _block(value: Any) -> str:
    return f"```yaml\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True)}```\n"
