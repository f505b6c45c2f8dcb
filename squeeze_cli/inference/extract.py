"""`squeeze extract-embeddings`: writing of codes or features of many images."""

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from itertools import chain
from math import prod
from pathlib import Path

from squeeze_cli.codec.manifest import ExtractionSummary, Manifest, Settings, ShardRecord, sum_up
from squeeze_cli.console import Advance, Reporter
from squeeze_cli.data.arrays import list_features
from squeeze_cli.data.image_lists import list_place, title_of
from squeeze_cli.data.images import available_cores, choose_workers
from squeeze_cli.data.reading import warn_of_skipped
from squeeze_cli.data.sources import Listing
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.features.prepare import check_image
from squeeze_cli.inference.engines import Made, make_in_workers, visible_devices
from squeeze_cli.inference.launch import choose_part
from squeeze_cli.inference.output_folder import OutputFolder
from squeeze_cli.inference.plan import Plan, Shard, choose_images_per_shard, most_images, stamps_of
from squeeze_cli.inference.ray_engine import make_on_ray
from squeeze_cli.inference.request import Extraction
from squeeze_cli.inference.shard import Job, Origin, ShardMaker, contents_of
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.training.measure import FLOAT32_BYTES, decoder_bytes


def extract_embeddings(
    run: TrainedRun, request: Extraction, reporter: Reporter
) -> ExtractionSummary:
    """Write codes, decoded features or original features of images, and measure them.

    Shards of the same extraction that exist already are kept.

    Raises:
        SqueezeError: The run has no codes, or files are missing or damaged.
        UsageError: `request.out` holds another output or other files.
    """
    content, coding = request.content, request.coding
    if content == "codes":
        run.require_codes()
        coding = coding or ("prior" if run.prior else "packed")
    part = choose_part(request, os.environ)
    name, kind, origin, listing = _list_images(run, request, reporter)
    most = most_images(content, run.points_per_image)
    default_size = choose_images_per_shard(len(listing.train), most)
    plan = Plan(listing.train, request.images_per_shard or default_size)
    settings = Settings(
        content=content, run=run.folder.name, run_digest=run.digest, source=kind,
        plan=plan.digest(), images_per_shard=plan.images_per_shard,
        precision=run.config.training.precision, coding=coding, levels=run.levels,
        dtype="float32" if content != "codes" else None, space=run.space,
    )  # fmt: skip
    default = run.folder.path / "embeddings" / f"{name}-{content}"
    folder = Path(request.out) if request.out else default
    given = None if request.features is None else Path(request.features).resolve()
    if given is not None and folder.resolve() in (given, given.parent):
        raise UsageError(f"{folder} holds the features that are given: choose another --out.")
    numbers = part.numbers(len(plan))
    if part.count > 1:
        by = f" by {part.source}; --num-shards 1 does all" if part.source else ""
        reporter.say(
            f"Part {part.index} of {part.count}{by}: {len(numbers)} of {len(plan)} shards."
        )
    output = OutputFolder(folder, settings, len(plan), numbers, reporter, request.overwrite)
    with output.claimed():
        records = _make_all(run, request, origin, listing, plan, output)
        whole = output.finish()
    skipped = [each for record in records for each in record.skipped]
    warn_of_skipped([(each["name"], each["reason"]) for each in skipped], reporter)
    summary = _summary(run, folder, whole or sum_up(settings, records))
    summary.skipped, summary.complete = skipped, whole is not None
    return summary


def _list_images(
    run: TrainedRun, request: Extraction, reporter: Reporter
) -> tuple[str, str, Origin, Listing]:
    """List the images to be extracted; only masks are read, if the splits depend on them.

    Returns a name for the output folder, the images' kind, the origin of their states, and the listing,
    with all images in `train`.
    """
    origin: Origin = "images"
    if request.features is not None:
        name, kind, origin = Path(request.features).resolve().stem, "features", "features"
        listing = list_features(request.features, request.feature_names)
    elif request.images is not None:
        name, kind = title_of(request.images), "images"
        listing = list_place(request.images)
    else:
        name = request.split or "test"
        splits, data = run.splits(reporter), run.config.data
        chosen = splits.named().values() if name == "all" else [splits.named()[name]]
        if request.engine == "ray" and data.has_features:
            raise UsageError("--engine ray is for images, not for given features: leave it out.")
        if request.engine == "local" and (data.has_features or data.use_cache):
            origin = "features" if data.has_features else "store"
        kind, listing = f"split {name}", Listing(tuple(chain.from_iterable(chosen)))
    for warning in listing.warnings:
        reporter.warn(warning)
    warn_of_skipped(listing.skipped, reporter)
    if not listing.train:
        raise SqueezeError(f"No image of {name} can be read: see the warnings.")
    return name, kind, origin, listing


def _make_all(
    run: TrainedRun, request: Extraction, origin: Origin, listing: Listing, plan: Plan,
    output: OutputFolder,
) -> list[ShardRecord]:  # fmt: skip
    """Make the missing shards of this process's part, and return the records of all shards in it.

    Raises SqueezeError as soon as more images than `--max-bad` could not be read.
    """
    images = len(listing.train) + len(listing.skipped)
    bad = [reason for _, reason in listing.skipped]
    records: dict[int, ShardRecord] = {}
    claims: dict[int, ExitStack] = {}
    total = sum(len(plan.shard(number).samples) for number in output.numbers)
    with output.reporter.track("Extracting", total) as advance, ExitStack() as all_claims:

        def check() -> None:
            if len(bad) > request.most_bad(images):
                raise SqueezeError(
                    f"{len(bad)} of {images} images cannot be read, more than --max-bad "
                    f"{request.max_bad}: {bad[-1]}"
                )

        def keep(record: ShardRecord) -> None:
            records[record.number] = record
            claims.pop(record.number).close()
            bad.extend(each["reason"] for each in record.skipped)
            check()

        def missing() -> Iterator[Shard]:
            for number in output.numbers:
                shard = plan.shard(number)
                claims[number] = all_claims.enter_context(ExitStack())
                claims[number].enter_context(output.claimed_shard(number))
                record = output.find(number)
                if record is None or not _is_current(record, shard, output):
                    yield shard
                    continue
                keep(record)
                advance(len(shard.samples), "")

        check()
        with closing(_engine(run, request, origin, output, missing(), advance)) as made:
            for content, record in made:
                output.write(content, record)
                keep(record)
    return [records[number] for number in output.numbers]


def _is_current(record: ShardRecord, shard: Shard, output: OutputFolder) -> bool:
    """Return whether a shard is up to date: no skipped image can be read now.

    Raises UsageError if the shard was made of other images; they are read if their files changed.
    """
    if record.stamps == stamps_of(shard.samples):
        skipped = {each["name"] for each in record.skipped}
        tried = [check_image(each) for each in shard.samples if each.name in skipped]
        if found := [each.sample.name for each in tried if not each.reason]:
            output.reporter.warn(
                f"{found[0]} can be read again: shard {shard.number} is made again, with {len(found)} "
                "more of its images."
            )
        return not found
    if record.contents != contents_of(shard.samples, choose_workers(None)):
        raise UsageError(
            f"{output.folder} holds another output (with different images, in shard {shard.number}): "
            "choose another --out, or --overwrite it."
        )
    return True


def _engine(
    run: TrainedRun, request: Extraction, origin: Origin, output: OutputFolder,
    shards: Iterator[Shard], advance: Advance,
) -> Generator[Made]:  # fmt: skip
    """Return the engine that makes the shards: Ray, worker processes, or this process.

    Given and stored features do not pass the backbone, so they need no workers.
    """
    cores, given = available_cores(), request.num_workers
    devices = visible_devices() if run.device.type == "cuda" else []
    default = {"cuda": len(devices), "cpu": cores}.get(run.device.type, 1)
    workers = min(output.count_missing(), default if given is None else given)
    if origin != "images" or workers == 1:
        workers = 0
    threads = max(1, cores // max(1, workers))
    if given and not devices:
        threads = 1 if workers else given
    job = Job(
        run.folder.path.resolve(), dict(run.values), output.settings, output.count, origin, threads
    )
    if request.engine == "ray":
        say = output.reporter.say
        return make_on_ray(job, shards, output.count_missing(), request, advance, say)
    if workers:
        return make_in_workers(job, shards, workers, advance, devices)
    maker = ShardMaker(job, run, output.reporter)
    return (maker.extract_shard(shard, advance) for shard in shards)


def _summary(run: TrainedRun, folder: Path, output: Manifest) -> ExtractionSummary:
    size, images = output.bytes, output.images
    vectors = images * prod(run.record.quantizer.grid)
    pixels = None if output.source == "features" else run.config.data.pixels
    points = images * run.points_per_image
    float32_bytes = FLOAT32_BYTES * points
    summary = ExtractionSummary(
        run=output.run, out=str(folder), content=output.content, coding=output.coding,
        levels=output.levels, source=output.source, images=images, vectors=vectors,
        skipped_images=output.skipped_images, shards=output.shards, file_bytes=size,
        bytes_per_image=_ratio(size, images), bits_per_feature_point=_ratio(8 * size, points),
        bits_per_pixel=pixels and _ratio(8 * size, images * pixels),
        compression_ratio_float32=_ratio(float32_bytes, size),
        compression_ratio_float16=_ratio(float32_bytes / 2, size),
    )  # fmt: skip
    if counted := output.sums.get("vectors"):
        summary.mse = output.sums["squared_error"] / counted
        summary.cosine = output.sums["cosine"] / counted
    if output.content == "codes":
        prior = run.prior if output.coding == "prior" else None
        decoder = decoder_bytes(run.network, prior).total
        described = run.record.quantizer
        levels = len(run.code_sizes) / len(described.code_sizes)  # those of rvq are of one size
        summary.nominal_bits_per_vector = levels * described.nominal_bits_per_vector
        summary.bits_per_vector = _ratio(8 * size, vectors)
        summary.decoder_bytes = decoder
        summary.compression_ratio_float32_with_decoder = float32_bytes / (size + decoder)
        summary.compression_ratio_float16_with_decoder = float32_bytes / 2 / (size + decoder)
    return summary


def _ratio(numerator: float, denominator: float) -> float:
    """Return a ratio, or 0 for a part of an output without images."""
    return numerator / denominator if denominator else 0.0
