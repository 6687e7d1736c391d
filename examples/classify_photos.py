"""Classify photos with EfficientNet-Lite0, fused by convfirst_ext, and compare with stock PyTorch.

    python examples/classify_photos.py [PHOTO ...]

Without arguments it takes two photos that come with scikit-image.
It needs: pip install "convfirst_ext[models]"
"""

import sys

import torch

import convfirst_ext as cf
from convfirst_ext.apps.classify import class_names, load_classifier, top_labels
from convfirst_ext.apps.latency import time_in_turns
from convfirst_ext.apps.photos import PhotoError, preprocess, read_photo, sample_photos


def main(paths: list[str]) -> int:
    """Classifies the photos at paths; 2 if one cannot be read, else 0."""
    model = load_classifier()  # timm's tf_efficientnet_lite0 with real ImageNet weights, in eval mode
    fast = cf.optimize(model)  # the one line that changes: a fused copy with the same inputs and outputs
    names = class_names()
    photos, status = sample_photos() if not paths else [], 0
    for path in paths:
        try:
            photos.append(read_photo(path))
        except PhotoError as error:
            print(error, file=sys.stderr)
            status = 2

    with torch.inference_mode():
        for photo in photos:
            image = preprocess(photo.image)  # float32 (1, 3, 224, 224)
            logits = fast(image)
            print(photo.name)
            for label in top_labels(logits, names):
                print(f"  {label.probability:6.1%}  {label.index:3d}  {label.name}")
            difference = (logits - model(image)).abs().max().item()
            print(f"  largest logit difference from stock PyTorch: {difference:.1e}\n")

        if photos:
            times = time_in_turns({"stock": lambda: model(image), "fused": lambda: fast(image)}, rounds=5)
            stock, fused = times["stock"].median, times["fused"].median
            print(f"stock {stock:.1f} ms, fused {fused:.1f} ms: {stock / fused:.1f} times as fast")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
