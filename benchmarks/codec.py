"""Speed, memory, size and distortion of a run's codec, compared with FAISS on the same features.

    python -m benchmarks.codec runs/vq --data-dir ../shared/data --json codec.json

Sizes are of the whole file of the test split's codes. Speeds of codings are measured on a file of
`--images` images, in which those of the split are repeated, and speeds of methods on the split. Each is
the best of `--repeat` turns; the methods alternate, so that noise affects all of them. Memory is the peak
that Python and NumPy allocate (tracemalloc) for codes of 1 and of 4 times 256 images. Features are the
quantizer's input, each channel with zero mean and unit variance over the training split; FAISS is trained
on the training split.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.machine import show
from squeeze_cli.codec.container import BATCH_IMAGES, CodesFile, encode_codes
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.reports.tables import fixed
from squeeze_cli.training.measure import measure_codes

FAISS_FACTORIES = ("OPQ16,PQ16x8", "RQ4x8")
MEBIBYTE = 2**20
Figures = dict[str, Any]


class TestCodes:
    """A run's test images as features, and its codes as files in a folder of the benchmark's own."""

    def __init__(
        self, run: TrainedRun, features_nchw: torch.Tensor, names: list[str], folder: Path
    ) -> None:
        self.run = run
        self.names = names
        self.network = run.module.network
        self.features = features_nchw
        self.path = folder / "codes.sqz"
        self.prior = read_prior(run.folder.prior_file) if run.folder.prior_file.exists() else None
        self.codes = self.quantize()

    @torch.no_grad()
    def quantize(self) -> NDArray[np.integer]:
        """Codes `[n, h, w, Q]` of the features, some images at a time."""
        return torch.cat([self.network.codes(part) for part in self.features.split(64)]).numpy()

    def encode(self, codes_nhwq: NDArray[np.integer], prior: CodePrior | None) -> bytes:
        """A codes file of these codes, of which there may be more than names."""
        names, n = self.names, len(self.names)
        return encode_codes(
            codes_nhwq,
            [names[i % n] if i < n else f"{names[i % n]}_{i // n}" for i in range(len(codes_nhwq))],
            quantizer=self.run.config.quantizer.type,
            code_sizes=self.network.quantizer.code_sizes,
            run=self.run.digest,
            prior=prior,
        )

    def decode(self, prior: CodePrior | None) -> int:
        """Read all codes of the file, some images at a time; their number."""
        return sum(part.size for _, part in CodesFile(self.path, prior).batches())

    @torch.no_grad()
    def dequantize(self, codes_nhwq: NDArray[np.integer]) -> NDArray[np.float32]:
        """Features `[n * h * w, C]` of codes."""
        codes = torch.from_numpy(codes_nhwq.astype(np.int64)).flatten(1, 2)
        maps = self.network.decode(self.network.quantizer.lookup(codes), codes_nhwq.shape[1:3])
        features: NDArray[np.float32] = maps.permute(0, 2, 3, 1).flatten(0, 2).numpy()
        return features


@torch.no_grad()
def split_features(
    run: TrainedRun, reporter: Reporter
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Features `[n, C, h, w]` of `train` and `test`, and the names of the test images."""
    splits = run.splits(reporter)
    samples = {"train": splits.train, "test": splits.test}
    data = run.data(samples, reporter)
    network = run.module.network
    features = {
        split: torch.cat([network.features(states) for states, _, _ in data.batches(split, 64)])
        for split in samples
    }
    return features, [sample.name for sample in data.splits["test"]]


def best_seconds(jobs: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """Return the least seconds of each job in `repeat` turns, after a first one that does not count."""
    best = dict.fromkeys(jobs, float("inf"))
    for turn in range(repeat + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_mebibytes(job: Callable[[], Any]) -> float:
    """Return the peak of the memory that the job allocates."""
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1] / MEBIBYTE
    finally:
        tracemalloc.stop()


def distortion(features_nc: NDArray[np.float32], decoded_nc: NDArray[np.float32]) -> Figures:
    """Return the mean squared error of the entries, and the mean cosine similarity of the vectors."""
    norms = np.linalg.norm(features_nc, axis=1) * np.linalg.norm(decoded_nc, axis=1)
    cosines = (features_nc * decoded_nc).sum(axis=1) / np.maximum(norms, 1e-12)
    return {
        "mse": float(np.square(features_nc - decoded_nc).mean()),
        "cosine": float(cosines.mean()),
    }


def measure_coding(codec: TestCodes, prior: CodePrior | None, repeat: int, images: int) -> Figures:
    """Measure sizes, speeds between codes and bytes, and memory of one coding."""
    content = codec.encode(codec.codes, prior)
    many = np.resize(codec.codes, (images, *codec.codes.shape[1:]))
    codec.path.write_bytes(codec.encode(many, prior))
    seconds = best_seconds(
        {"encode": lambda: codec.encode(many, prior), "decode": lambda: codec.decode(prior)},
        repeat,
    )
    slots = None if prior is None else prior.slots(codec.codes)
    figures = dict(
        measure_codes(
            content,
            codec.codes,
            codec.features.shape[1],
            slots,
            vectors=codec.codes[..., 0].size,
            pixels=None,
        )
    )
    for name, taken in seconds.items():
        figures[f"{name}_vectors_per_second"] = many[..., 0].size / taken
    for times in (1, 4):
        codes = np.resize(codec.codes, (times * BATCH_IMAGES, *codec.codes.shape[1:]))
        codec.path.write_bytes(codec.encode(codes, prior))
        figures[f"encode_peak_mib_{times}x"] = peak_mebibytes(
            lambda c=codes: codec.encode(c, prior)
        )
        figures[f"decode_peak_mib_{times}x"] = peak_mebibytes(lambda: codec.decode(prior))
    return figures


def measure_methods(
    codec: TestCodes, train_nc: NDArray[np.float32], options: argparse.Namespace, reporter: Reporter
) -> list[Figures]:
    """Measure coding from features to bytes and back, by this run and by FAISS, in turns."""
    tokens = codec.features.permute(0, 2, 3, 1).flatten(0, 2).contiguous().numpy()
    jobs: dict[str, Callable[[], Any]] = {}
    results: dict[str, Figures] = {}
    for coding, prior in codings(codec).items():
        content = codec.encode(codec.codes, prior)
        path = codec.path.with_name(f"{coding}.sqz")
        path.write_bytes(content)
        jobs[f"encode {coding}"] = lambda prior=prior: codec.encode(codec.quantize(), prior)
        jobs[f"decode {coding}"] = lambda path=path, prior=prior: codec.dequantize(
            CodesFile(path, prior).read()
        )
        results[coding] = {"bytes_per_vector": len(content) / len(tokens)}
        results[coding] |= distortion(tokens, codec.dequantize(codec.codes))
    for factory in options.faiss:
        index = trained_index(factory, train_nc, reporter)
        coded = index.sa_encode(tokens)
        jobs[f"encode {factory}"] = lambda index=index: index.sa_encode(tokens)
        jobs[f"decode {factory}"] = lambda index=index, coded=coded: index.sa_decode(coded)
        results[factory] = {"bytes_per_vector": index.sa_code_size()}
        results[factory] |= distortion(tokens, index.sa_decode(coded))
    seconds = best_seconds(jobs, options.repeat)
    for method, figures in results.items():
        for way in ("encode", "decode"):
            figures[f"{way}_vectors_per_second"] = len(tokens) / seconds[f"{way} {method}"]
    return [{"method": method, **figures} for method, figures in results.items()]


def codings(codec: TestCodes) -> dict[str, CodePrior | None]:
    """The codings that the run can have."""
    return {"packed": None} | ({} if codec.prior is None else {"prior": codec.prior})


def trained_index(factory: str, train_nc: NDArray[np.float32], reporter: Reporter) -> Any:
    """Return a trained FAISS index; FAISS is in the extra `faiss`."""
    try:
        import faiss
    except ModuleNotFoundError:
        raise SqueezeError("FAISS is missing: `pip install squeeze-cli[faiss]`.") from None
    index = faiss.index_factory(train_nc.shape[1], factory)
    start = time.perf_counter()
    index.train(train_nc)
    reporter.say(f"Trained {factory} in {time.perf_counter() - start:.0f} s.")
    return index


def coding_table(results: list[Figures]) -> Table:
    """Return the table of codings, with speeds from codes to bytes and back."""
    table = Table(title="Codes to bytes, test split", title_justify="left", box=None)
    for heading in ("coding", "bits per vector,\nwhole file", "vectors/s\nencode", "vectors/s\ndecode",
                    "peak MiB encode\n1x / 4x", "peak MiB decode\n1x / 4x"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "coding" else "right")
    for row in results:
        speeds = [fixed(row[f"{way}_vectors_per_second"]) for way in ("encode", "decode")]
        peaks = [
            f"{fixed(row[f'{way}_peak_mib_1x'], 1)} / {fixed(row[f'{way}_peak_mib_4x'], 1)}"
            for way in ("encode", "decode")
        ]
        table.add_row(row["coding"], fixed(row["bits_per_vector"], 2), *speeds, *peaks)
    return table


def method_table(results: list[Figures]) -> Table:
    """Return the table of methods, with speeds from features to bytes and back."""
    table = Table(title="Features to bytes, test split", title_justify="left", box=None)
    for heading in ("method", "bytes a\nvector", "MSE", "cosine", "vectors/s\nencode",
                    "vectors/s\ndecode"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in results:
        speeds = [fixed(row[f"{way}_vectors_per_second"]) for way in ("encode", "decode")]
        rates = [fixed(row["bytes_per_vector"], 2), fixed(row["mse"], 3), fixed(row["cosine"], 3)]
        table.add_row(row["method"], *rates, *speeds)
    return table


def main() -> None:
    """Measure, show, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--data-dir", help="in place of the run's own")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="of the speed of codings")
    parser.add_argument("--faiss", nargs="*", default=list(FAISS_FACTORIES), help="factory strings")
    parser.add_argument(
        "--train-vectors", type=int, help="features that FAISS is trained on, evenly taken; all"
    )
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    reporter = Reporter()
    data = {"data.data_dir": options.data_dir} if options.data_dir else {}
    run = TrainedRun(options.run, {"training.device": "cpu", **data})
    if not run.module.network.quantizer.code_sizes:
        raise SystemExit(f"{options.run} quantizes nothing: give a run of `squeeze train`.")
    features, names = split_features(run, reporter)
    train_nc = features["train"].permute(0, 2, 3, 1).flatten(0, 2).contiguous().numpy()
    if options.train_vectors:
        chosen = np.linspace(0, len(train_nc) - 1, min(options.train_vectors, len(train_nc)))
        train_nc = train_nc[chosen.astype(np.int64)]
    with tempfile.TemporaryDirectory() as folder:
        codec = TestCodes(run, features["test"], names, Path(folder))
        coded = [
            measure_coding(codec, prior, options.repeat, options.images)
            for prior in codings(codec).values()
        ]
        reporter.show(coding_table(coded))
        methods = measure_methods(codec, train_nc, options, reporter)
    report = {
        "run": run.folder.name, "faiss_train_vectors": len(train_nc), "codings": coded,
        "methods": methods,
    }  # fmt: skip
    show(method_table(methods), report, options.json)


if __name__ == "__main__":
    main()
