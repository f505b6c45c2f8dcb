"""Run records made by the tests: what `compare` and the figures read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze_cli.runs import RunFolder


def record(iou: float, *, kind: str = "quantized", quantizer: str = "vq", **changed: Any) -> dict:
    baseline = kind == "baseline"
    metrics = {"iou": iou, "accuracy": 0.75}
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
            "backbone": "efficientnet-lite0", "random_features": False, "weights_digest": "w1",
        },
        "data": {
            "dataset": "oxford-pet", "image_size_px": 224, "subset_size": None, "test_images": 9,
            "digest": "d1",
        },
        "quantizer": {
            "type": "none" if baseline else quantizer,
            "nominal_bits_per_vector": 10240.0 if baseline else 9.0,
            "nominal_compression_ratio": 1.0 if baseline else 10240 / 9,
        },
        "metrics": {"train": metrics, "val": {**metrics, "iou": iou + 0.02}, "test": metrics},
        "history": [],
        **changed,
    }  # fmt: skip


def write(folder: Path, name: str, content: dict | str) -> RunFolder:
    run = RunFolder(folder / name)
    run.path.mkdir(parents=True)
    if isinstance(content, str):
        run.record_file.write_text(content)
    else:
        run.write_record(content)
    return run


def measured(bits: float, *, images: int = 9, vectors_per_image: int = 20) -> dict:
    """The field of a run with codes: val and test differ, so that a wrong split shows."""
    test = {
        "file": "codes/test.safetensors", "coding": "prior",
        "images": images, "vectors": images * vectors_per_image,
        "bits_per_vector": bits, "payload_bits_per_vector": bits - 0.5,
        "bytes_per_image": bits * vectors_per_image / 8, "compression_ratio": 10240 / bits,
    }  # fmt: skip
    val = {**test, "bits_per_vector": bits + 1, "bytes_per_image": 0.0, "compression_ratio": 1.0}
    return {"val": val, "test": test, "decoder": {"codebook_bytes": 1, "projection_bytes": 2}}
