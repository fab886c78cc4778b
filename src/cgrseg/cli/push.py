"""`cgrseg push`: weights to the Hugging Face hub, with a card that says where they come from."""

from __future__ import annotations

from pathlib import Path


def push(
    repository: str,
    *,
    weights: str,
    terms: str | None = None,
    limits: str | None = None,
    license: str = "other",
    private: bool = False,
    out: Path | None = None,
) -> int:
    """Share weights on the Hugging Face hub: weights file, config.json and a model card, in one commit.

    The card tells data, recipe, scores, limits, the terms of the data and how to cite the paper, from what the
    weights file says about itself. Others then use hf:USER/NAME as --weights. Log in first: `hf auth login`.

    Args:
        repository: where to, as USER/NAME; made where it is missing
        weights: a weights file, or the name of bundled weights
        terms: licence or terms of the training data, in a sentence; needed where the weights don't say it
        limits: what the weights are not good for; default: what they say, or what their scores show
        license: of the weights, as the hub spells it: apache-2.0, cc-by-4.0, other
        private: make the repository private, where it is made now
        out: write what would be uploaded into this folder, and upload nothing
    """
    import re

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no repository of the hub: write USER/NAME")

    from cgrseg.weights import hub
    from cgrseg.weights.load import find_weights

    path = find_weights(weights)
    pages = hub.pages(path, repository, terms=terms, limits=limits, license=license)
    if out is not None:
        hub.write(path, pages, out)
        print(f"{', '.join([hub.HUB_FILE, *pages])} in {out}, nothing was uploaded")
        return 0
    print(f"{hub.push(path, pages, repository, private=private)}\nothers use it as --weights hf:{repository}")
    return 0
