"""Two weights on one photo, as a table."""

from __future__ import annotations

import html

import numpy as np

from cgrseg.inference.result import Segmentation


def comparison(one: str, left: Segmentation, other: str, right: Segmentation) -> str:
    """A table of both shares by class name, and on how much of the photo the two name the same class."""
    first, second = left.areas(), right.areas()
    names = sorted({*first, *second}, key=lambda name: -first.get(name, 0) - second.get(name, 0))
    same = float(np.mean(np.array(left.names)[left.labels] == np.array(right.names)[right.labels]))
    rows = [
        f"<tr><td>{html.escape(name)}</td><td>{first.get(name, 0):.1%}</td><td>{second.get(name, 0):.1%}</td></tr>"
        for name in names
    ]
    head = f"<tr><th>class</th><th>{html.escape(one)}</th><th>{html.escape(other)}</th></tr>"
    return f"<p>Both name the same class on {same:.1%} of the photo.</p><table>{head}{''.join(rows)}</table>"
