"""A trained run, which encodes features to codes, and decodes codes to features or masks."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.base import FeatureOrigin, FrozenBackbone
from squeeze_cli.codec.container import CodesFile, encode_codes
from squeeze_cli.codec.prior import Prior
from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.config.classes import ClassTable
from squeeze_cli.config.fields import Size
from squeeze_cli.config.resolve import PLACES, with_values
from squeeze_cli.config.schema import option_of
from squeeze_cli.console import Reporter
from squeeze_cli.data.arrays import FeatureSample, shape_text
from squeeze_cli.data.images import choose_workers
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.sources import Listing, known_classes
from squeeze_cli.errors import DamagedCodesError, SqueezeError, UsageError
from squeeze_cli.features.arrays import GivenFeatureBatches, GivenFeatures
from squeeze_cli.features.datamodule import (
    FeatureBatches,
    SegmentationDataModule,
    make_trunk,
    open_store,
)
from squeeze_cli.features.prepare import Trunk
from squeeze_cli.features.store import FeatureStore
from squeeze_cli.losses.segmentation import upsample
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.devices import choose_device
from squeeze_cli.training.experiment import load_features, load_splits, load_trained

Codes = NDArray[np.integer] | Tensor
# Matrix products with fewer rows use routines that round differently.
FEW_VECTORS = 4


class TrainedRun:
    """A finished run with the weights of its best epoch, in eval mode.

    Decoding codes needs the run's folder only. The backbone's weights and the feature store, which
    images need, are opened when they are first used.

    Args:
        path: The run's folder.
        values: Values in place of those of its configuration, by `section.field`, such as
            `training.device` and `data.data_dir`; see `config.resolve.with_run_values`.
        levels: Number of first levels of rvq whose codes are used; by default all.

    Attributes:
        folder, record, config: The run's folder, its record, and its configuration with `values`.
        values: The given values, with which a baseline for comparison is opened too.
        device, module: The device, and the trained Lightning module on it.

    Raises:
        SqueezeError: The folder holds no finished run, a file in it is damaged, or the device is
            not available.
        UsageError: One of `values` is invalid or has no effect, or the run has no such `levels`.
    """

    def __init__(
        self, path: str | Path, values: Mapping[str, object] = MappingProxyType({}),
        levels: int | None = None,
    ) -> None:  # fmt: skip
        self.folder = RunFolder(Path(path))
        self.values = values
        self.levels = None if levels is None else int(levels)
        self.record, self.config = self.folder.open_finished(values, levels)
        self.device = choose_device(self.config.training.device)
        # No weights of the backbone are read: the record has the shape of the features, and a last layer
        # that was trained is in the checkpoint.
        config = with_values(self.config, {"model.weights": "none"})
        origin: FeatureOrigin = self.given
        if config.model.unfreeze_last_layer:
            with torch.random.fork_rng(devices=[]):
                origin = create_backbone(config.model, config.data.size_px)
        module = load_trained(self.folder, self.record, config, origin, levels)
        self.module = module.to(self.device)

    @property
    def network(self) -> SegmentationNetwork:
        """The trained network: everything behind the frozen part of the backbone."""
        return self.module.network

    @property
    def digest(self) -> str:
        """Digest of the weights; raises SqueezeError for a run of an older version, without one."""
        if self.record.digest is None:
            raise SqueezeError(
                f"{self.folder.path} is of an older version of squeeze: train it again."
            )
        return self.record.digest

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Number of values of each of a vector's codes; empty without a quantizer."""
        return self.network.quantizer.code_sizes

    @cached_property
    def prior(self) -> Prior | None:
        """The run's prior, or None if its codes are packed; SqueezeError for the prior of another run."""
        measured = self.record.measured
        if measured is None or measured.val.coding != "prior":
            return None
        prior = read_prior(self.folder.prior_file)
        if measured.prior_digest not in (None, prior.digest):
            raise SqueezeError(
                f"{self.folder.prior_file} is not this run's prior: restore it, or train the run again."
            )
        return prior

    @property
    def space(self) -> Literal["backbone", "adapted"]:
        """Space of the written features: `backbone`, or `adapted` (after adapter or projection)."""
        changed = self.config.model.add_adapter or self.network.projection is not None
        return "adapted" if changed else "backbone"

    @property
    def points_per_image(self) -> int:
        """Number of values in the features of an image."""
        return self.network.normalizer.mean.numel() * prod(self._grid)

    def require_codes(self) -> None:
        """Raise SqueezeError if the run has no quantizer, and therefore no codes."""
        if not self.code_sizes:
            raise SqueezeError(
                f"{self.folder.path} was trained without a quantizer, so it has no codes: use another "
                "run; `squeeze extract-embeddings --format features` writes its features."
            )

    def require_head(self) -> None:
        """Raise SqueezeError if the run has no segmentation head, and therefore predicts no masks."""
        if self.network.head is None:
            raise SqueezeError(
                f"{self.folder.path} was trained by --loss reconstruction, without a segmentation "
                "head: its codes decode to features, not to masks."
            )

    def open(self, path: str | Path) -> CodesFile:
        """Open a codes file of this run; raises SqueezeError if it is damaged or of another run.

        A file of rvq may hold the codes of the first levels only.
        """
        file = CodesFile(Path(path), self.prior).require_run(self.digest)
        header, grid = file.header, self.network.code_grid(self._grid)
        kind, sizes = self.config.quantizer.type, self.code_sizes
        expected = (kind, sizes[: len(header.code_sizes)] if kind == "rvq" else sizes, grid)
        if (header.quantizer, header.code_sizes, header.grid) != expected:
            found = f"{path} holds codes of {header.quantizer} on {shape_text(header.grid)}"
            raise DamagedCodesError(f"{found}, not {kind} on {shape_text(grid)}: make it again.")
        return file

    def encode(self, codes_nhwq: Codes, names: Sequence[str], coding: str = "prior") -> bytes:
        """Return the bytes of a codes file with codes `[n, h, w, Q]` of n named images.

        `coding` is `prior` or `packed` (UsageError for others); SqueezeError if the run has no prior.
        """
        if coding not in ("prior", "packed"):
            raise UsageError(f"The coding {coding!r} is unknown: use prior or packed.")
        if coding == "prior" and self.prior is None:
            raise SqueezeError(f"{self.folder.path} has no prior: use --coding packed.")
        return encode_codes(
            self._checked(codes_nhwq), names, quantizer=self.config.quantizer.type, run=self.digest,
            code_sizes=self.code_sizes, prior=self.prior if coding == "prior" else None,
        )  # fmt: skip

    @torch.no_grad()
    def codes(self, maps: Tensor) -> NDArray[np.int32]:
        """Return the codes `[B, rows, columns, Q]` of normalized features `[B, C, h, w]`."""
        return self.network.codes(maps).int().cpu().numpy()

    @torch.no_grad()
    def features(self, codes_bhwq: Codes) -> Tensor:
        """Return the normalized features `[B, C, h, w]` that codes decode to.

        An image's features have the same bits in every batch.
        """
        codes = self._checked(codes_bhwq)
        few = codes[..., 0].size < FEW_VECTORS
        vectors, grid = self._placed(np.tile(codes, (FEW_VECTORS, 1, 1, 1)) if few else codes)
        return self.network.decode(vectors, grid)[: len(codes)].contiguous()

    @torch.no_grad()
    def masks(self, codes_bhwq: Codes) -> NDArray[np.uint8]:
        """Return the predicted classes `[B, H, W]` of codes, at the size of the run's images.

        Raises SqueezeError if the run has no segmentation head.
        """
        self.require_head()
        logits = self.network.logits(*self._placed(self._checked(codes_bhwq)))
        return upsample(logits, self.config.data.size_px).argmax(dim=1).byte().cpu().numpy()

    def to_output(self, maps: Tensor) -> Tensor:
        """Convert normalized features to features of `space`, as they are written."""
        return maps if self.space != "backbone" else self.network.normalizer.inverse(maps)

    @torch.no_grad()
    def vectors(self, codes_bhwq: Codes) -> Tensor:
        """Return the code vectors `[B, d, rows, columns]` float32 of codes, on the grid of the codes."""
        codes = self._checked(codes_bhwq)
        return self.network.code_maps(self._placed(codes)[0], codes.shape[1:3]).contiguous()

    def decoded(self, codes_bhwq: Codes) -> Tensor:
        """Return the features `[B, C, h, w]` of codes as they are written: float32, on the CPU."""
        return self.to_output(self.features(codes_bhwq)).float().cpu()

    def _checked(self, codes_bhwq: Codes) -> NDArray[np.integer]:
        """Return codes as an array; SqueezeError for others, which a codebook could take for its own."""
        codes = np.asarray(codes_bhwq.cpu() if isinstance(codes_bhwq, Tensor) else codes_bhwq)
        sizes = np.array(self.code_sizes[: codes.shape[-1]] if codes.ndim == 4 else ())
        whole = np.issubdtype(codes.dtype, np.integer) and codes.shape[3:] == sizes.shape
        if not (whole and (codes >= 0).all() and (codes < sizes).all()):
            raise SqueezeError(
                f"Codes of {self.folder.path} are whole numbers [B, rows, columns, Q] from 0 to "
                f"{max(self.code_sizes, default=0) - 1}: take those of `codes`, or of a codes file."
            )
        return codes

    def _placed(self, codes_bhwq: NDArray[np.integer]) -> tuple[Tensor, Size]:
        """Return code vectors `[B, N, d]` on the device, and the rows and columns of their features.

        Without blocks the grid may differ from that of the run.
        """
        codes = torch.from_numpy(codes_bhwq.astype(np.int64)).flatten(1, 2).to(self.device)
        grid = codes_bhwq.shape[1:3] if self.network.blocks is None else self._grid
        return self.network.quantizer.lookup(codes), grid

    @property
    def given(self) -> GivenFeatures:
        """Given features of the shape that the run was trained on."""
        return GivenFeatures((*self._grid, self.record.model.feature_dim))

    @property
    def _grid(self) -> Size:
        """Rows and columns of the features."""
        rows, columns = self.record.quantizer.grid
        return rows, columns

    @cached_property
    def backbone(self) -> FrozenBackbone:
        """The frozen backbone.

        Raises SqueezeError if its weights are not those that the run was trained on, or if the run was
        trained on given features.
        """
        if self.config.data.has_features:
            raise SqueezeError(
                f"{self.folder.path} was trained on given features, without a backbone: give --features."
            )
        backbone = create_backbone(self.config.model, self.config.data.size_px)
        if backbone.weights.digest != self.record.model.weights_digest:
            fix = f"restore the file behind --weights {self.config.model.weights}"
            if backbone.random_weights:
                fix = "install the versions of torch, torchvision and timm that run.json names"
            raise SqueezeError(
                f"The weights of {backbone.name} are not those that {self.folder.path} was trained "
                f"on: {fix}, or train it again."
            )
        return backbone

    @cached_property
    def store(self) -> FeatureStore | None:
        """The feature store of the run's images; None with `--no-cache`."""
        return open_store(self.config, self.trunk(0))

    def trunk(self, num_workers: int) -> Trunk:
        """Return the frozen part of the backbone, which decodes `num_workers` images at once."""
        return make_trunk(self.config, self.backbone, self.device, num_workers)

    def splits(self, reporter: Reporter) -> Listing:
        """Return the images of each split, and report those whose masks cannot be read.

        Raises SqueezeError if folders are missing, given features are not those that the run was
        trained on, or the images are now in other splits.
        """
        config = self.config
        for name in PLACES:
            path = getattr(self.config.data, name)
            if path is not None and not Path(path).exists():
                raise SqueezeError(
                    f"There is no {path}, the {option_of(f'data.{name}')} of {self.folder.path}: put it "
                    f"back, or write its new place as `{name}` into {self.folder.config_file}."
                )
        if config.data.has_features:
            given, splits = load_features(config, reporter)
            if given.digest != self.record.model.weights_digest:
                raise SqueezeError(
                    f"The features in {config.data.features} are not those that {self.folder.path} was "
                    "trained on: restore these, or use `squeeze extract-embeddings --features`."
                )
        else:
            splits = load_splits(config, reporter)[0]
        before = self.record.data
        left_out = {each["name"] for each in before.skipped}
        known = before.skipped_images == len(left_out) and "names" in before.part_digests
        if known and before.part_digests["names"] != splits.names_digest(left_out):
            self.report_changed("names or splits of images", reporter)
        return splits

    def report_changed(self, what: str, reporter: Reporter) -> None:
        """Report data that differ from the training: a warning if they were named, else SqueezeError."""
        data = self.config.data
        if self.record.data.dataset != data.dataset:
            return
        found = f"{data.place} has other {what} than {self.folder.path} was trained with"
        if not any(self.values.get(f"data.{name}") for name in ("data_dir", *PLACES)):
            named = "--images" if data.images else "--data-dir"
            fix = "" if data.has_features else f", or name the images by `squeeze evaluate {named}`"
            raise SqueezeError(
                f"{found}; images of test or val may have been trained on: restore the data{fix}."
            )
        reporter.warn(f"{found}: some of the measured images may have been trained on.")

    @property
    def classes(self) -> ClassTable:
        """The classes that the run predicts; raises SqueezeError without a segmentation head."""
        self.require_head()
        table = known_classes(self.config.data)
        assert table is not None  # the training has written it into the configuration
        return table

    def data(self, samples: Mapping[str, Sequence[Sample]], reporter: Reporter) -> FeatureBatches:
        """Return a data module, set up, with the states of named lists of images or of given features.

        Images that cannot be read are reported, and missing from its `splits`.
        """
        data: FeatureBatches
        if all(isinstance(s, FeatureSample) for split in samples.values() for s in split):
            training = self.config.training
            data = GivenFeatureBatches(samples, self.given, training, self.device, reporter)
        else:
            trunk = self.trunk(choose_workers(self.config.data.num_workers))
            data = SegmentationDataModule(
                samples, trunk, self.store, self.config.training, reporter
            )
        data.setup()
        return data
