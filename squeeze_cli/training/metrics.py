"""Losses, mean IoU, accuracy, distortion, codebook usage and perplexity, over whole sets of images.

Mean IoU equals torchmetrics' `MulticlassJaccardIndex`, computed from one confusion matrix of the
whole set: intersections and unions are summed over all images before they are divided, and classes
that appear neither in the predictions nor in the targets do not count. It is not the mean of the IoUs
of single images.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from squeeze_cli.config.defaults import IGNORE_INDEX

Values = dict[str, float | list[float | None]]

# Metrics that have a value per class, or per code of a vector.
LISTS = ("per_class_iou", "codebook_usage", "codebook_perplexity")
NEIGHBOURS = 10
# Largest number of vectors in the random sample of a split.
PATCHES = 3000
# Largest number of similarities that are computed at once.
BLOCK_VALUES = 2**24
EPSILON = 1e-8  # the cosine of a vector of zeros is 0


class LossMeans(Metric):
    """Mean of each loss over images: one state for all, where Lightning's log takes a metric for each."""

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.add_state("sums", torch.zeros(()), dist_reduce_fx="sum")  # then the number of images

    def update(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Add the losses of a batch of so many images, by the same names in each."""
        self.names = list(losses)
        values = torch.stack([loss.detach() for loss in losses.values()])
        self.sums = self.sums + images * F.pad(values, (0, 1), value=1.0)

    def compute(self) -> dict[str, Tensor]:
        """Return the means by name."""
        return dict(zip(self.names, self.sums[:-1] / self.sums[-1], strict=True))


class SegmentationMetrics(MulticlassConfusionMatrix):
    """All segmentation metrics, from a single confusion matrix that processes synchronize."""

    def __init__(self, num_classes: int, *, sync_on_compute: bool = True) -> None:
        super().__init__(num_classes + 1, validate_args=False, sync_on_compute=sync_on_compute)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count pixels, ignored ones as a further class: to leave them out takes three times as long."""
        super().update(preds, target.masked_fill(target == IGNORE_INDEX, self.num_classes - 1))

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Return `iou` (mean), `accuracy` (pixels) and `per_class_iou` `[K]`; NaN for absent classes, and
        for all if no pixel is labelled."""
        matrix = super().compute().cpu().double()[:-1, :-1]  # not every device has float64
        hits = matrix.diag()
        union = matrix.sum(dim=0) + matrix.sum(dim=1) - hits
        iou = hits / union  # 0/0 is NaN
        return {"iou": iou.nanmean(), "accuracy": hits.sum() / matrix.sum(), "per_class_iou": iou}


class ReconstructionMetrics(Metric):
    """Distortion of decoded features over all vectors but padding."""

    full_state_update = False
    squared_error: Tensor
    squares: Tensor
    cosine: Tensor
    vectors: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("squared_error", "squares", "cosine"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("vectors", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, features: Tensor, decoded: Tensor, counted: Tensor) -> None:
        """Add features and decoded features `[B, C, h, w]` where `counted` `[B, h, w]` is true."""
        norms, decoded_norms, errors = (
            torch.linalg.vector_norm(vectors, dim=1)[counted]
            for vectors in (features, decoded, decoded - features)
        )
        with torch.autocast(features.device.type, enabled=False):  # half precision is too coarse
            products = torch.linalg.vecdot(features, decoded, dim=1)[counted]
        cosines = products / norms.clamp_min(EPSILON) / decoded_norms.clamp_min(EPSILON)
        channels = features.shape[1]
        self.squared_error += errors.square().sum() / channels
        self.squares += norms.square().sum() / channels
        self.cosine += cosines.sum()
        self.vectors += counted.sum()

    def compute(self) -> dict[str, Tensor]:
        """Return `mse` (mean over vectors and channels), mean `cosine` similarity, and `sqnr_db`, the
        signal-to-quantization-noise ratio in dB: 10 log10(sum of squares / sum of squared errors)."""
        vectors = self.vectors.clamp_min(1)
        return {
            "mse": self.squared_error / vectors,
            "cosine": self.cosine / vectors,
            "sqnr_db": 10 * (self.squares / self.squared_error).log10(),
        }


class FeatureComparison(Metric):
    """Original and decoded features of mean-pooled images, and of a random sample of vectors.

    It works in a single process; `reset` does not remove the features.

    Attributes:
        images: Original and decoded features of each image, concatenated to `[2C]`, in order.
        patches: Original and decoded features of up to `PATCHES` vectors, `[n, 2C]`.
        neighbours: Whether to compute the share of neighbours that are kept.
    """

    full_state_update = False

    def __init__(self, seed: int, neighbours: bool = True) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.generator = torch.Generator().manual_seed(seed)
        self.images: list[Tensor] = []
        self.patches, self.ranks = torch.empty(0), torch.empty(0)

    def update(self, features: Tensor, decoded: Tensor, counted: Tensor) -> None:
        """Add features and decoded features `[B, C, h, w]` where `counted` `[B, h, w]` is true."""
        both = torch.cat([features, decoded], dim=1).permute(0, 2, 3, 1).cpu()
        counted = counted.cpu()
        self.images += [rows[own].mean(dim=0) for rows, own in zip(both, counted, strict=True)]
        ranks = torch.rand(int(counted.sum()), generator=self.generator)
        ranks = torch.cat([self.ranks, ranks])
        patches = torch.cat([self.patches.view(-1, both.shape[-1]), both[counted]])
        self.ranks, drawn = ranks.topk(min(PATCHES, len(ranks)))
        self.patches = patches[drawn]

    def compute(self) -> dict[str, Tensor]:
        """Return `neighbours_images` and `neighbours_patches`, shares by `neighbours_kept`."""
        if not self.neighbours:
            return {}
        images = neighbours_kept(torch.stack(self.images), self.generator)
        patches = neighbours_kept(self.patches, self.generator)
        return {"neighbours_images": images, "neighbours_patches": patches}


def neighbours_kept(both_nc: Tensor, generator: torch.Generator) -> Tensor:
    """Return the share of the 10 nearest neighbours by cosine that are also nearest after decoding.

    A vector is not its own neighbour. Ties, as between vectors with equal codes, are broken at random.

    Args:
        both_nc: Original and decoded vectors, concatenated to `[n, 2C]`. For n below 12 the result is
            NaN, because nothing could be lost.
        generator: Generator of the random order.
    """
    count, kept = len(both_nc), 0
    if count < NEIGHBOURS + 2:
        return torch.tensor(torch.nan)
    shuffled = both_nc[torch.randperm(count, generator=generator)]
    spaces = [F.normalize(vectors, dim=1) for vectors in shuffled.chunk(2, dim=1)]
    for rows in torch.split(torch.arange(count), max(1, BLOCK_VALUES // count)):
        nearest = []
        for vectors in spaces:
            similarities = vectors[rows] @ vectors.T
            similarities[torch.arange(len(rows)), rows] = -torch.inf
            nearest.append(similarities.topk(NEIGHBOURS).indices)
        kept += int((nearest[0][:, :, None] == nearest[1][:, None]).sum())
    return torch.tensor(kept / (NEIGHBOURS * count))


class CodebookUsage(Metric):
    """Use of the codes of each codebook, for vectors of Q codes each."""

    full_state_update = False
    counts: Tensor

    def __init__(self, code_sizes: Sequence[int]) -> None:
        super().__init__()
        self.code_sizes = list(code_sizes)
        counts = torch.zeros(
            sum(self.code_sizes), dtype=torch.int64
        )  # of one codebook after another
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """Count codes `[B, N, Q]`; those of levels that a training step leaves out are -1."""
        sizes = torch.tensor(self.code_sizes, device=codes.device)
        places = (codes + sizes.cumsum(dim=0) - sizes)[codes >= 0]
        self.counts += torch.bincount(places, minlength=len(self.counts))

    def compute(self) -> dict[str, Tensor]:
        """Return `codebook_usage` `[Q]`, the share of codes used at all, and `codebook_perplexity` `[Q]`,
        2 to the entropy (in bits) of the codes' use."""
        counts = torch.split(self.counts.cpu().double(), self.code_sizes)
        shares = [each / each.sum().clamp_min(1) for each in counts]
        return {
            "codebook_usage": torch.stack([(each > 0).double().mean() for each in counts]),
            "codebook_perplexity": torch.stack([torch.special.entr(s).sum().exp() for s in shares]),
        }


def make_metrics(
    num_classes: int | None, code_sizes: Sequence[int], *, distortion: bool
) -> MetricCollection:
    """Create the metrics of a split: the means of losses, of the segmentation unless `num_classes` is
    None, of decoded features with `distortion`, and of the use of codes if there are any.

    `update` takes the arguments of all of them by name.
    """
    metrics: dict[str, Metric] = {"losses": LossMeans()}
    if distortion:
        metrics["reconstruction"] = ReconstructionMetrics()
    if num_classes is not None:
        metrics["segmentation"] = SegmentationMetrics(num_classes)
    if code_sizes:
        metrics["codebooks"] = CodebookUsage(code_sizes)
    return MetricCollection(metrics, compute_groups=False)  # type: ignore[arg-type]


def as_values(computed: dict[str, Tensor]) -> Values:
    """Convert computed metrics to plain numbers and lists; NaN (an absent class) becomes None."""
    return {
        name: [None if v != v else v for v in value.reshape(-1).tolist()]
        if name in LISTS  # torchmetrics squeezes lists of one entry
        else value.item()
        for name, value in computed.items()
    }


def flatten(values: Values) -> dict[str, float]:
    """Return one entry per number, such as `per_class_iou_0` or `codebook_usage_level_1`, without None.

    With a single code per vector the name is plain: `codebook_usage`.
    """
    flat: dict[str, float] = {}
    for name, value in values.items():
        if not isinstance(value, list):
            flat[name] = value
            continue
        infix = "" if name.startswith("per_class") else "level_"
        for i, entry in enumerate(value):
            if entry is not None:
                single = len(value) == 1 and infix
                flat[name if single else f"{name}_{infix}{i}"] = entry
    return flat
