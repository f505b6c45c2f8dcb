"""The plain loop: the same training as in a common training script.

    python -m benchmarks.plain_loop FOLDER

A DataLoader decodes every image in every epoch, the frozen backbone runs in every step, linear layers
project before and after the library's codebook, a plain head is computed on all channels, logits are
interpolated, and five torchmetrics follow each step. Images, order, initial weights, loss, optimizer
and schedule are those of `squeeze train` (`benchmarks.starting_point` writes them), so that both reach
the same loss. The loop is not made slow: it has no logger, no progress bar, and persistent workers.

Reads FOLDER/config.yaml, splits.json and initial.pt; writes FOLDER/plain.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
)
from torchvision import transforms
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from vector_quantize_pytorch import ResidualVQ, VectorQuantize

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import FrozenBackbone
from squeeze_cli.config.resolve import load_experiment
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.data.images import available_cores
from squeeze_cli.features.datamodule import SEED_DISTANCE
from squeeze_cli.training.devices import choose_device

QUANTIZERS = ("vq", "rvq", "none")
IGNORED = 255
HIDDEN_CHANNELS = 256


class PetDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images `[3, S, S]` and masks `[S, S]` int64, decoded at each access."""

    def __init__(self, paths: list[tuple[str, str]], size: int) -> None:
        self.paths = paths
        self.size = size
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, mask_path = self.paths[index]
        image: Tensor = self.transform(Image.open(image_path).convert("RGB"))
        mask = Image.open(mask_path).resize((self.size, self.size), Image.Resampling.NEAREST)
        return image, torch.from_numpy(np.array(mask)).long() - 1


class PlainModel(nn.Module):
    """Frozen backbone, quantizer with its projections, head on all channels, interpolation."""

    def __init__(
        self, config: ExperimentConfig, backbone: FrozenBackbone, step_tokens: int
    ) -> None:
        super().__init__()
        self.backbone = backbone.network
        channels, classes = backbone.feature_dim, config.model.num_classes or 3
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.quantizer = make_quantizer(config, channels, step_tokens)
        self.loss_weight = config.quantizer.vq_loss_weight
        self.head = make_head(backbone.name, channels, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, K, S, S]` and the quantizer's loss."""
        with torch.no_grad():
            features = self.backbone(images)
        features = (features - self.mean[:, None, None]) / self.std[:, None, None]
        b, c, h, w = features.shape
        loss = features.new_zeros(())
        if self.quantizer is not None:
            tokens = features.flatten(2).transpose(1, 2)
            tokens, losses = self.quantizer(tokens)
            features = tokens.transpose(1, 2).reshape(b, c, h, w)
            loss = losses.sum() * self.loss_weight
        logits = self.head(features)
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        return logits, loss

    def load_initial(self, state: dict[str, Tensor]) -> None:
        """Load the initial weights of `squeeze train`, under the names of this module."""
        self.mean.copy_(state["normalizer.mean"])
        self.std.copy_(state["normalizer.std"])
        head = [tensor for name, tensor in state.items() if name.startswith("head.")]
        self.head.load_state_dict(dict(zip(self.head.state_dict(), head, strict=True)))
        if self.quantizer is not None:
            own = self.quantizer.state_dict()
            given = {
                name.split(".", 1)[1].replace("rvq.", "codes.").replace("vq.", "codes."): tensor
                for name, tensor in state.items()
                if name.startswith("quantizer.")
            }
            self.quantizer.load_state_dict({name: given[name] for name in own})


class Projected(nn.Module):
    """project_in, the library's quantizer, project_out.

    The library can hold both projections itself, but passes no gradient to its project_in where
    the features need none, as frozen ones do: that would be another training.
    """

    def __init__(self, codes: nn.Module, channels: int, bottleneck_dim: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(channels, bottleneck_dim)
        self.codes = codes
        self.project_out = nn.Linear(bottleneck_dim, channels)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized tokens `[B, N, C]` and the commitment losses."""
        vectors, _, losses = self.codes(self.project_in(tokens))
        return self.project_out(vectors), losses


def make_quantizer(config: ExperimentConfig, channels: int, step_tokens: int) -> nn.Module | None:
    """Return the library's module between its projections, or None for `none`."""
    quantizer = config.quantizer
    if quantizer.type == "none":
        return None
    size = quantizer.codebook_size or 512
    common = {
        "dim": quantizer.bottleneck_dim,
        "codebook_size": size,
        "decay": quantizer.decay,
        "commitment_weight": quantizer.commitment_weight,
        "threshold_ema_dead_code": 0.05 * step_tokens / size,
    }
    if quantizer.type == "vq":
        made = VectorQuantize(**common)
        layers = [made]
    else:
        made = ResidualVQ(num_quantizers=quantizer.num_quantizers, **common)
        layers = list(made.layers)
    for layer in layers:
        layer._codebook.reset_cluster_size = step_tokens / size
    return Projected(made, channels, quantizer.bottleneck_dim)


def make_head(backbone: str, channels: int, classes: int) -> nn.Module:
    """torchvision's head for DeepLab, a small convolutional one for the others."""
    if backbone == "deeplab":
        head: nn.Module = DeepLabHead(channels, classes)
        return head
    return nn.Sequential(
        nn.Conv2d(channels, HIDDEN_CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(HIDDEN_CHANNELS),
        nn.ReLU(),
        nn.Conv2d(HIDDEN_CHANNELS, classes, 1),
    )


def make_metrics(classes: int) -> dict[str, Any]:
    """Five metrics, each with its own state."""
    shared: dict[str, Any] = {"num_classes": classes, "ignore_index": IGNORED}
    return {
        "iou": MulticlassJaccardIndex(**shared),
        "per_class_iou": MulticlassJaccardIndex(average=None, **shared),
        "accuracy": MulticlassAccuracy(average="micro", **shared),
        "precision": MulticlassPrecision(average="macro", **shared),
        "f1": MulticlassF1Score(average="macro", **shared),
    }


def run_epoch(
    model: PlainModel, loader: Any, metrics: dict[str, Any], device: torch.device,
    optimizer: Any = None, schedule: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Run an epoch, with training if there is an optimizer; return the mean loss and the metrics."""
    model.train(optimizer is not None)
    for metric in metrics.values():
        metric.reset()
    total = 0.0
    with torch.set_grad_enabled(optimizer is not None):
        for batch in loader:
            images, masks = (tensor.to(device, non_blocking=True) for tensor in batch)
            logits, quantizer_loss = model(images)
            loss = F.cross_entropy(logits, masks, ignore_index=IGNORED) + quantizer_loss
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            total += loss.item()
            predictions = logits.argmax(dim=1)
            for metric in metrics.values():
                metric.update(predictions, masks)
    values = {name: metric.compute().tolist() for name, metric in metrics.items()}
    return {"loss": total / len(loader), **values}


def train(folder: Path) -> dict[str, Any]:
    """Train all epochs, then test the weights of the best one."""
    config = load_experiment(folder / "config.yaml", None)
    training, (size, _) = config.training, config.data.size_px
    paths = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    order: DistributedSampler[Any] = DistributedSampler(
        paths["train"], num_replicas=1, rank=0, seed=training.seed * SEED_DISTANCE
    )
    single = len(order) % training.batch_size == 1
    device = choose_device(training.device)
    workers: dict[str, Any] = {
        "num_workers": available_cores(), "persistent_workers": True,
        "pin_memory": device.type == "cuda",
    }  # fmt: skip
    loaders: dict[str, Any] = {
        name: DataLoader(PetDataset(paths[name], size), batch_size=training.batch_size, **workers)
        for name in ("val", "test")
    }
    loaders["train"] = DataLoader(
        PetDataset(paths["train"], size), batch_size=training.batch_size, sampler=order,
        drop_last=single, **workers,
    )  # fmt: skip
    backbone = create_backbone(config.model, (size, size))
    step_tokens = training.batch_size * backbone.vectors_per_image
    model = PlainModel(config, backbone, step_tokens)
    model.load_initial(torch.load(folder / "initial.pt", map_location="cpu", weights_only=True))
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=training.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=training.lr, total_steps=training.epochs * len(loaders["train"])
    )
    metrics = {
        name: metric.to(device)
        for name, metric in make_metrics(config.model.num_classes or 3).items()
    }
    history: list[dict[str, Any]] = []
    best: dict[str, Tensor] = {}
    for epoch in range(training.epochs):
        torch.manual_seed(training.seed + epoch)
        order.set_epoch(epoch)
        trained_epoch = run_epoch(model, loaders["train"], metrics, device, optimizer, schedule)
        val = run_epoch(model, loaders["val"], metrics, device)
        if not history or val["iou"] > max(h["val"]["iou"] for h in history):
            best = {k: v.clone() for k, v in model.state_dict().items() if "backbone" not in k}
        history.append({"epoch": epoch, "train": trained_epoch, "val": val})
    model.load_state_dict(best, strict=False)
    return {"history": history, "test": run_epoch(model, loaders["test"], metrics, device)}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "plain.json").write_text(json.dumps(train(place)), encoding="utf-8")
