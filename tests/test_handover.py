"""From main.py to FID_sample.py: what the one leaves behind is all that the other needs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.metrics import inputs
from tiny_runs import CODES, image_folder, words

from MaskGIL.weights import load_weights
from Metrics.inception import InceptionNetwork
from Metrics.inception_metrics import FeatureStatistics, distance
from Metrics.reference import open_image_set

ROOT = Path(__file__).parent.parent
CLASSES = ("bay leaf", "red cat")
SIDE, COUNT = 32, 10


@pytest.mark.slow
def test_a_run_is_sampled_and_scored_by_its_weights_folder_alone(tmp_path):
    images = image_folder(tmp_path / "images", classes=CLASSES, train=8, val=3)
    data = ["data.source=folder", f"data.path={images}", "loop.steps=4"]
    run("main.py", *words("tokenizer", tmp_path), *data, f"out_dir={tmp_path / 'tokenizer'}")
    os.rename(tmp_path / "tokenizer" / "weights", tmp_path / "weights")
    run("main.py", *words("generator", tmp_path), *data, "network.num_classes=2")
    weights = tmp_path / "handed" / "over"
    shutil.copytree(tmp_path / "generator" / "weights", weights)
    for folder in ("weights", "tokenizer", "generator"):  # nothing else is there any more
        shutil.rmtree(tmp_path / folder)
    torch.save(inputs.inception_weights(), tmp_path / "filled.pth")
    run(
        "FID_sample.py", f"weights={weights}", f"out={tmp_path / 'a.npz'}", f"num_images={COUNT}",
        "num_steps=3", "classes=data", f"reference={images}", f"train={images}",
        f"inception={tmp_path / 'filled.pth'}", "device=cpu", "precision=fp32",
    )  # fmt: skip
    record = json.loads((tmp_path / "a.json").read_text())
    found = load_weights(weights)
    assert found.classes == list(CLASSES)
    assert record["samples"]["tokenizer_sha256"] == found.tokenizer.fingerprint
    assert found.tokenizer.codebook_size == CODES
    with np.load(tmp_path / "a.npz") as arrays:
        samples, labels = torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2), arrays["arr_1"]
    assert np.bincount(labels).tolist() == [COUNT // 2] * 2  # as the validation images
    inception = InceptionNetwork(tmp_path / "filled.pth", torch.device("cpu"))
    assert record["features"][inception.name] == inception.sha256
    assert record["fid"] is None  # not the released weights: a distance, and no FID
    expected = distance(
        statistics(inception, samples),
        statistics(inception, torch.cat(list(reference(images)))),
    )
    assert record["metrics"][f"{inception.name} distance"] == pytest.approx(expected, rel=1e-4)


def run(program, *arguments):
    command = [sys.executable, str(ROOT / program), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def reference(images):
    return open_image_set("reference", str(images), "val", (SIDE, SIDE))


def statistics(network, images):
    found = FeatureStatistics()
    found.update(network(images))
    return found
