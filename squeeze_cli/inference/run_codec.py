"""A finished run as a codec: features to codes, codes to features or masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze_cli.backbones import create_backbone
from squeeze_cli.codec.container import CodesFile, encode_codes
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.codec.prior_file import read_prior
from squeeze_cli.config.record import FinishedRecord
from squeeze_cli.config.resolve import with_values
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.errors import SqueezeError
from squeeze_cli.inference.evaluate import require_finished
from squeeze_cli.kernels.upsampling import upsample_bilinear
from squeeze_cli.model.build import build_network
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.checkpoints import load_best
from squeeze_cli.training.fit import make_module


@dataclass(frozen=True)
class RunCodec:
    """What turns features into codes and back, loaded; in eval mode, on `device`."""

    folder: RunFolder
    config: ExperimentConfig
    record: FinishedRecord
    network: SegmentationNetwork
    device: torch.device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's vectors."""
        rows, columns = self.record.quantizer.grid
        return rows, columns

    @property
    def digest(self) -> str:
        """Digest of the weights, which codes files name the run by."""
        assert self.record.digest is not None  # load_codec saw to it
        return self.record.digest

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """For each of a vector's codes how many values it has; empty without a quantizer."""
        return self.network.quantizer.code_sizes

    @cached_property
    def prior(self) -> CodePrior | None:
        """The run's prior, or None where its codes are packed."""
        return read_prior(self.folder.prior_file) if self.has_prior else None

    @property
    def has_prior(self) -> bool:
        """Whether the run fitted one."""
        return self.record.measured is not None and self.record.measured.val.coding == "prior"

    @property
    def space(self) -> str:
        """What written features are: the backbone's own, or `adapted` (adapter, projection)."""
        changed = self.network.adapter is not None or self.network.projection is not None
        return "adapted" if changed else "backbone"

    def require_codes(self) -> None:
        """Raise SqueezeError where the run quantizes nothing, so that there are no codes."""
        if not self.code_sizes:
            raise SqueezeError(
                f"{self.folder.path} was trained without a quantizer: it has features, no codes."
            )

    def encode(
        self, codes_nhwq: NDArray[np.integer], names: list[str], coding: str = "prior"
    ) -> bytes:
        """Codes `[n, h, w, Q]` as the bytes of a codes file; `coding` is `prior` or `packed`."""
        if coding == "prior" and self.prior is None:
            raise SqueezeError(f"{self.folder.path} has no prior: use --coding packed.")
        return encode_codes(
            codes_nhwq, names, quantizer=self.config.quantizer.type, code_sizes=self.code_sizes,
            run=self.digest, prior=self.prior if coding == "prior" else None,
        )  # fmt: skip

    def open(self, path: str | Path) -> CodesFile:
        """Open a codes file; raises SqueezeError for one that another run made."""
        return CodesFile(Path(path), self.prior).require_run(self.digest)

    @torch.no_grad()
    def codes(self, maps: Tensor) -> NDArray[np.int32]:
        """Codes `[B, h, w, Q]` of features `[B, C, h, w]` as the quantizer sees them."""
        codes: NDArray[np.int32] = self.network.codes(maps).int().cpu().numpy()
        return codes

    @torch.no_grad()
    def features(self, codes_bhwq: NDArray[np.integer]) -> Tensor:
        """Quantized features `[B, C, h, w]` of codes, to the last bit those that training sees.

        Normalized as the quantizer sees them: `SegmentationNetwork.features` has the way there.
        """
        tokens = self._tokens(codes_bhwq)
        decoded = self.network.quantizer.decode(tokens)
        maps: Tensor = decoded.unflatten(1, codes_bhwq.shape[1:3]).permute(0, 3, 1, 2)  # type: ignore[no-untyped-call]
        return maps.contiguous()

    def to_output(self, maps: Tensor) -> Tensor:
        """Features as the quantizer sees them as those of `space`: the normalization undone."""
        if self.space != "backbone":
            return maps
        normalizer = self.network.normalizer
        return maps * normalizer.std[:, None, None] + normalizer.mean[:, None, None]

    @torch.no_grad()
    def raw_features(self, state: Tensor) -> Tensor:
        """Features `[B, C, h, w]` of `space`, unquantized, of a trunk's state."""
        if self.space != "backbone":
            return self.network.features(state)
        last_layer = self.network.last_layer
        features: Tensor = state if last_layer is None else last_layer(state)
        return features

    @torch.no_grad()
    def masks(self, codes_bhwq: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Predicted classes `[B, H, W]` at the size of the run's images, from codes alone."""
        size = self.config.data.image_size
        rows, columns = codes_bhwq.shape[1:3]
        logits = self.network.logits_of_codes(self._tokens(codes_bhwq), (rows, columns))
        classes: NDArray[np.uint8] = (
            upsample_bilinear(logits.float(), (size, size)).argmax(dim=1).byte().cpu().numpy()
        )
        return classes

    def _tokens(self, codes_bhwq: NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(codes_bhwq.astype(np.int64)).flatten(1, 2).to(self.device)


def load_codec(path: Path, device: torch.device) -> RunCodec:
    """Load a finished run's best epoch, without its backbone's weights: codes are enough.

    Raises SqueezeError for an unfinished run, or one of an older version, without a digest.
    """
    folder = RunFolder(path)
    record, config = require_finished(folder)
    if record.digest is None:
        raise SqueezeError(f"{path} is of an older version of squeeze: train it again.")
    # The shapes, and whether the head is a pretrained one, are all that is needed of the backbone.
    without = with_values(config, {"model.weights": "none"})
    with torch.random.fork_rng(devices=[]):
        backbone = create_backbone(without.model, config.data.image_size)
        module = make_module(without, build_network(without, backbone))
    load_best(module, folder)
    raw = record.model.head_expects_raw_features
    module.network.head.expects_raw_features = raw
    return RunCodec(folder, config, record, module.network.eval().to(device), device)
