"""Run records made by the tests: what `compare` and the figures read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from squeeze_cli.runs import RunFolder


def record(iou: float, *, kind: str = "quantized", quantizer: str = "vq", **changed: Any) -> dict:
    baseline = kind == "baseline"
    metrics = {"iou": iou, "accuracy": 0.75, "per_class_iou": [iou, iou, None]}
    if not baseline:
        metrics |= {"codebook_usage": [0.96, 0.9375], "codebook_perplexity": [200.0, 100.0]}
    return {
        "name": "written by the folder",
        "kind": kind,
        "status": "finished",
        "error": None,
        "seed": 7,
        "epochs": {"planned": 3, "done": 3, "best": 1},
        "seconds": {"features": 1.0, "fit": 2.0, "total": 63.4},
        "model": {
            "backbone": "efficientnet-lite0", "weights": "default", "random_features": False,
            "weights_digest": "w1", "feature_dim": 320, "quantized_dim": 64, "num_classes": 3,
            "loss": "ce", "add_adapter": False, "unfreeze_last_layer": False,
            "trainable_parameters": 1000,
        },
        "data": {
            "dataset": "oxford-pet", "image_size_px": 224, "subset_size": None,
            "train_images": 16, "val_images": 4, "test_images": 9, "digest": "d1",
            "test_digest": "t1", "classes": ["pet", "background", "border"],
            "skipped_images": 0, "skipped": [],
        },
        "quantizer": {
            "type": "none" if baseline else quantizer,
            "code_sizes": [] if baseline else [512], "bottleneck_dim": None if baseline else 64,
            "grid": [4, 5], "nominal_bytes_per_image": 25600.0 if baseline else 22.5,
            "nominal_bits_per_vector": 10240.0 if baseline else 9.0,
            "nominal_compression_ratio": 1.0 if baseline else 10240 / 9,
        },
        "metrics": {"train": metrics, "val": {**metrics, "iou": iou + 0.02}, "test": metrics},
        "history": [],
        **changed,
    }  # fmt: skip


def reconstructed(sqnr_db: float, **changed: Any) -> dict:
    """Record of a run without a segmentation head."""
    content = record(0.0, **changed)
    content["model"] |= {"loss": "reconstruction", "num_classes": None}
    mse = 10 ** (-sqnr_db / 10)
    metrics = {"mse": mse, "cosine": 1 - mse / 2, "sqnr_db": sqnr_db, "codebook_usage": [0.9]}
    content["metrics"] = {"train": metrics, "val": {**metrics, "mse": mse + 1}, "test": metrics}
    return content


def write(folder: Path, name: str, content: dict | str) -> RunFolder:
    run = RunFolder(folder / name)
    run.path.mkdir(parents=True)
    if isinstance(content, str):
        run.record_file.write_text(content)
    else:
        run.record_file.write_text(json.dumps({"schema_version": 1, **content}))
    return run


def measured(bits: float, *, images: int = 9, vectors_per_image: int = 20) -> dict:
    """The field of a run with codes: val and test differ, so that a wrong split shows."""
    test = {
        "file": "codes/test.sqz", "coding": "prior",
        "images": images, "vectors": images * vectors_per_image,
        "file_bytes": int(bits * images * vectors_per_image / 8), "payload_bytes": 1,
        "prior_cross_entropy_bits": None,
        "bits_per_vector": bits, "payload_bits_per_vector": bits - 0.5,
        "bits_per_feature_point": bits / 320, "bits_per_pixel": None,
        "bytes_per_image": bits * vectors_per_image / 8, "compression_ratio": 10240 / bits,
    }  # fmt: skip
    val = {**test, "bits_per_vector": bits + 1, "bytes_per_image": 0.0, "compression_ratio": 1.0}
    decoder = {"codebook_bytes": 1, "projection_bytes": 2, "prior_bytes": 3}
    return {"val": val, "test": test, "decoder": decoder}
