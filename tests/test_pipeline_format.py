"""examples/pipeline_format.py speaks as the image-segmentation pipeline of transformers does."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cgrseg.inference.segmenter import Segmenter
from cgrseg.labels import LabelSpace
from cgrseg.nn import build
from cgrseg.weights import artifact

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "pipeline_format.py"


def test_the_example_gives_what_transformers_own_pipeline_gives() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra peers")
    model = build("cgrseg_n", num_classes=3)
    model.describe(labels=LabelSpace(names=("road", "sky", "tree"), colors=((0, 0, 0),) * 3))
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    segmentation = Segmenter(model)(photo)
    segmentation.labels[:20], segmentation.labels[20:] = 2, 0
    ours = runpy.run_path(str(EXAMPLE))["pipeline_format"](segmentation)

    # transformers' own last step, over the same label map
    answers = SimpleNamespace(
        image_processor=SimpleNamespace(
            post_process_semantic_segmentation=lambda outputs, target_sizes: [torch.from_numpy(segmentation.labels)]
        ),
        model=SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(segmentation.names)))),
    )
    postprocess = transformers.ImageSegmentationPipeline.postprocess
    theirs = postprocess(answers, {"target_size": [(48, 64)]}, subtask="semantic")

    assert [entry["label"] for entry in ours] == ["road", "tree"]
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["score"], mine["label"]) == (other["score"], other["label"])
        assert mine["mask"].mode == other["mask"].mode == "L"
        assert np.array_equal(np.asarray(mine["mask"]), np.asarray(other["mask"]))


def test_the_pipeline_takes_one_image_or_several_as_that_of_transformers_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    artifact.save(build("cgrseg_n", num_classes=3), tmp_path / "weights.safetensors")
    segment = runpy.run_path(str(EXAMPLE))["pipeline"](tmp_path / "weights.safetensors", device="cpu")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    photo.save(tmp_path / "photo.png")
    one, (first, second) = segment(str(tmp_path / "photo.png")), segment([photo, photo])
    assert one == first == second and one[0]["mask"].size == (64, 48)
