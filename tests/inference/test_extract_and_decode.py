"""`squeeze extract-embeddings` and `squeeze decode`: what goes in comes out, and is measured."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.numpy import load_file, safe_open
from typer.testing import CliRunner

from squeeze_cli.api import extract, open_run
from squeeze_cli.cli import app
from squeeze_cli.codec.manifest import Manifest, Settings, record_of
from squeeze_cli.codec.shards import merge_records, read_manifest, read_output
from squeeze_cli.console import Reporter
from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import locked
from squeeze_cli.inference.evaluation import evaluate_run
from squeeze_cli.inference.output_folder import OutputFolder
from squeeze_cli.inference.trained_run import TrainedRun
from tests.conftest import Squeeze
from tests.pets import noise_image
from tests.preprocessed import preprocessed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/q (rvq) and runs/none on the same 12 + 12 drawn images at 64 px."""
    folder = tmp_path_factory.mktemp("trained")
    for name, options in (
        ("q", ["--quantizer", "rvq", "--codebook-size", "16", "--num-quantizers", "2"]),
        ("none", ["--quantizer", "none"]),
    ):
        arguments = [
            "train", "--name", name, *options, "--model", "efficientnet-lite0", "--quiet",
            "--dataset", "synthetic", "--image-size", "64", "--subset-size", "12",
            "--num-workers", "0", "--epochs", "1", "--output-dir", str(folder / "runs"),
            "--cache-dir", str(folder / "cache"),
        ]  # fmt: skip
        assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of several sizes, one of them in a folder below, and one that is broken."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "below").mkdir()
    dice = np.random.default_rng(3)
    for number, name in enumerate(["a.jpg", "b.png", "below/a.png", "c.jpg", "d.png"]):
        pixels = dice.integers(0, 256, (40 + number, 90, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def run_json(squeeze: Squeeze, *arguments: str) -> dict[str, Any]:
    return json.loads(squeeze("extract-embeddings", *arguments, "--json").stdout)


def names_in(folder: Path, run: str | Path) -> list[str]:
    opened = open_run(run)
    return [
        name for shard in read_output(folder).shards for name in opened.open(shard.checked()).names
    ]


def test_codes_of_a_split_are_measured_and_decode_to_the_quantized_embeddings(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    run = str(trained / "runs" / "q")
    result = run_json(squeeze, run, "--out", "codes")
    files = sorted((tmp_path / "codes").glob("*.sqz"))
    assert result["file_bytes"] == sum(file.stat().st_size for file in files)
    assert result["bits_per_vector"] == pytest.approx(8 * result["file_bytes"] / (12 * 16))
    assert result["bits_per_feature_point"] == pytest.approx(result["bits_per_vector"] / 320)
    assert result["bits_per_pixel"] == pytest.approx(8 * result["bytes_per_image"] / 64**2)
    assert result["nominal_bits_per_vector"] == 8
    assert result["mse"] > 0
    assert -1 <= result["cosine"] <= 1

    run_json(squeeze, run, "--format", "quantized", "--out", "quantized")
    squeeze("decode", "codes", "--run", run, "--to", "features", "--out", "decoded")
    for name in ("manifest.json", "quantized-00000.safetensors"):
        assert (tmp_path / "decoded" / name).exists()
    wanted = load_file(tmp_path / "quantized" / "quantized-00000.safetensors")["embeddings"]
    found = load_file(tmp_path / "decoded" / "quantized-00000.safetensors")["embeddings"]
    assert wanted.shape == (12, 320, 4, 4)
    assert np.array_equal(wanted, found)


def test_decoding_needs_nothing_of_the_backbone(
    squeeze: Squeeze, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained / "runs" / "q"
    monkeypatch.setattr("squeeze_cli.inference.trained_run.create_backbone", None)
    for content in ("features", "masks"):
        squeeze("decode", str(run / "codes" / "test.sqz"), "--to", content, "--out", content)
    assert read_manifest(tmp_path / "features").images == 12
    assert len(list((tmp_path / "masks").glob("*.png"))) == 12


def test_the_table_fits_the_terminal(squeeze: Squeeze, trained: Path) -> None:
    done = squeeze("extract-embeddings", str(trained / "runs" / "q"), "--out", "codes")
    assert "Nominal" in done.stdout
    assert "Measured" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_masks_are_those_that_the_run_was_measured_with(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    """Mean IoU of the decoded PNGs is that of `evaluate`."""
    run = trained / "runs" / "q"
    squeeze("decode", str(run / "codes" / "test.sqz"), "--to", "masks", "--out", "masks")
    from squeeze_cli.console import Reporter
    from squeeze_cli.data.transforms import Preprocessing
    from squeeze_cli.training.metrics import SegmentationMetrics

    opened = TrainedRun(run)
    metric = SegmentationMetrics(3)
    for sample in opened.splits(Reporter(quiet=True)).test:
        with Image.open(tmp_path / "masks" / f"{sample.name}.png") as image:
            assert image.mode == "P"
            predicted = torch.from_numpy(np.asarray(image).astype(np.int64))
        assert sample.labels is not None
        truth = Preprocessing((64, 64)).mask(Image.fromarray(sample.labels.plane()))
        metric.update(predicted[None], truth[None].long())
    measured = evaluate_run(opened, "test", Reporter(quiet=True)).metrics
    assert float(metric.compute()["iou"]) == pytest.approx(measured.iou, abs=1e-6)


def test_any_folder_of_images(
    squeeze: Squeeze, trained: Path, photographs: Path, tmp_path: Path
) -> None:
    run = str(trained / "runs" / "q")
    done = squeeze(
        "extract-embeddings", run, "--images", str(photographs), "--out", "codes",
        "--num-workers", "0", "--json",
    )  # fmt: skip
    assert "broken" in done.stderr
    told = json.loads(done.stdout)
    assert (told["images"], told["skipped_images"], told["complete"]) == (5, 1, True)
    assert [each["name"] for each in told["skipped"]] == ["broken"]
    assert "no image format" in told["skipped"][0]["reason"]
    assert names_in(tmp_path / "codes", run) == ["a", "b", "below/a", "c", "d"]
    squeeze("decode", "codes", "--run", run, "--to", "masks", "--out", "masks")
    assert (tmp_path / "masks" / "below" / "a.png").exists()
    again = squeeze("decode", "codes", "--run", run, "--to", "masks", "--out", "masks", code=2)
    assert "--overwrite" in again.stderr


def test_a_picture_has_the_same_codes_however_the_camera_was_held(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    """Stored in EXIF orientations 1, 3, 6, 8, in folders and behind a link to one of them."""
    (tmp_path / "images" / "below").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    picture = noise_image(60, 44).resize((120, 88))
    turned = {1: 0, 3: 180, 6: 90, 8: 270}
    for place, suffix in (("images", "png"), ("images/below", "jfif"), ("elsewhere", "png")):
        for orientation, angle in turned.items():
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = orientation
            stored = picture.rotate(angle, expand=True)
            file = tmp_path / place / f"{orientation}.{suffix}"
            stored.save(file, "PNG", exif=exif)
    (tmp_path / "images" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "below" / "loop").symlink_to(tmp_path / "images")
    os.mkfifo(tmp_path / "images" / "pipe.png")
    done = squeeze(
        "extract-embeddings", str(trained / "runs" / "q"), "--images", "images", "--out", "codes"
    )
    assert "Skipped pipe: " in done.stderr
    assert "regular file" in done.stderr
    assert names_in(tmp_path / "codes", trained / "runs" / "q") == [
        *(str(n) for n in turned), *(f"below/{n}" for n in turned), *(f"link/{n}" for n in turned)
    ]  # fmt: skip
    codes = open_run(trained / "runs" / "q").open(tmp_path / "codes" / "codes-00000.sqz").read()
    assert len(codes) == 12
    assert np.array_equal(codes, np.broadcast_to(codes[:1], codes.shape))


def test_features_are_the_backbones_own(
    squeeze: Squeeze, trained: Path, photographs: Path, tmp_path: Path
) -> None:
    squeeze(
        "extract-embeddings", str(trained / "runs" / "none"), "--images", str(photographs),
        "--format", "features", "--out", "f", "--num-workers", "0",
    )  # fmt: skip
    from squeeze_cli.backbones import create_backbone
    from squeeze_cli.config.schema import ModelConfig
    from squeeze_cli.data.finding import list_images

    backbone = create_backbone(ModelConfig(backbone="efficientnet-lite0"), (64, 64)).network
    image = next(s for s in list_images(photographs).train if s.name == "c").read().decode()
    with torch.inference_mode():
        wanted = backbone(preprocessed(image, 64)[None])[0].numpy()
    with safe_open(tmp_path / "f" / "features-00000.safetensors", "numpy") as file:
        names = json.loads(file.metadata()["names"])
        found = file.get_tensor("embeddings")[names.index("c")]
    assert np.allclose(found, wanted, atol=1e-4)


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop", [StopError, KeyboardInterrupt])
def test_a_stopped_extraction_goes_on_and_ends_the_same(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    """What was done before is not done again."""
    run = trained / "runs" / "q"
    whole = extract(run, out=tmp_path / "whole", images_per_shard=5)
    assert (whole.images, whole.shards) == (12, 3)
    original = TrainedRun.encode
    calls: Iterator[int] = iter(range(9))

    def encode(self: TrainedRun, *arguments: Any) -> bytes:
        if next(calls) == 1:
            raise stop
        return original(self, *arguments)

    monkeypatch.setattr(TrainedRun, "encode", encode)
    with pytest.raises(stop):
        extract(run, out=tmp_path / "out", images_per_shard=5)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["codes-00000.json", "codes-00000.sqz"]
    with pytest.raises(SqueezeError, match="not complete"):
        read_output(tmp_path / "out")
    assert extract(run, out=tmp_path / "out", images_per_shard=5) == whole.model_copy(
        update={"out": str(tmp_path / "out")}
    )
    assert next(calls) == 4
    assert content_of(tmp_path / "whole") == content_of(tmp_path / "out")


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_extraction_stopped_after_its_last_image_is_finished(
    trained: Path, tmp_path: Path
) -> None:
    extract(trained / "runs" / "q", out=tmp_path / "out")
    before = content_of(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    extract(trained / "runs" / "q", out=tmp_path / "out")
    assert content_of(tmp_path / "out") == before


def test_another_output_in_the_folder_is_refused(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    run = str(trained / "runs" / "q")
    squeeze("extract-embeddings", run, "--out", "x", "--coding", "packed")
    refused = squeeze("extract-embeddings", run, "--out", "x", code=2)
    assert "coding" in refused.stderr
    assert run_json(squeeze, run, "--out", "x", "--overwrite")["coding"] == "prior"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "other files" in squeeze("extract-embeddings", run, "--out", "mine", code=2).stderr
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_mistakes_are_told(squeeze: Squeeze, trained: Path, tmp_path: Path) -> None:
    run, none = str(trained / "runs" / "q"), str(trained / "runs" / "none")
    assert "no codes" in squeeze("extract-embeddings", none, code=1).stderr
    both = squeeze("extract-embeddings", run, "--split", "val", "--images", ".", code=2)
    assert "contradict" in both.stderr
    meaningless = squeeze(
        "extract-embeddings", run, "--format", "features", "--coding", "prior", code=2
    )
    assert "--coding" in meaningless.stderr
    moved = tmp_path / "moved.sqz"
    shutil.copy(trained / "runs" / "q" / "codes" / "test.sqz", moved)
    lost = squeeze("decode", "moved.sqz", "--to", "masks", "--out", "m", code=1)
    assert "--run" in lost.stderr
    content = bytearray(moved.read_bytes())
    content[-3] ^= 16
    moved.write_bytes(content)
    damaged = squeeze("decode", "moved.sqz", "--run", run, "--to", "masks", "--out", "m", code=1)
    assert "damaged" in damaged.stderr
    assert not list((tmp_path / "m").glob("*")) if (tmp_path / "m").exists() else True


def test_damage_costs_nothing_else(squeeze: Squeeze, trained: Path, tmp_path: Path) -> None:
    """Damaged codes are made again, and take nothing with them that was decoded before."""
    run = str(trained / "runs" / "q")
    squeeze("extract-embeddings", run, "--out", "codes")
    squeeze("decode", "codes", "--run", run, "--to", "features", "--out", "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    same = ("decode", "codes", "--run", run, "--to", "features", "--out", "codes", "--overwrite")
    assert "another --out" in squeeze(*same, code=2).stderr
    file = ("decode", "codes/codes-00000.sqz", *same[2:])
    assert "another --out" in squeeze(*file, code=2).stderr
    (tmp_path / "link.sqz").symlink_to(tmp_path / "codes" / "codes-00000.sqz")
    assert "another --out" in squeeze("decode", "link.sqz", *same[2:], code=2).stderr
    shard = tmp_path / "codes" / "codes-00000.sqz"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 16
    shard.write_bytes(content)
    again = ("decode", "codes", "--run", run, "--to", "features", "--out", "out", "--overwrite")
    assert "damaged" in squeeze(*again, code=1).stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    repaired = squeeze("extract-embeddings", run, "--out", "codes")
    assert "codes-00000.sqz is missing or damaged: it is made again" in repaired.stderr
    squeeze(*again)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_damaged_checkpoint_is_noticed(squeeze: Squeeze, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs" / "q", tmp_path / "q")
    checkpoint = tmp_path / "q" / "checkpoints" / "best.ckpt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    assert "best.ckpt is damaged" in squeeze("evaluate", "q", code=1).stderr
    checkpoint.write_bytes(content[: len(content) // 2])
    assert "best.ckpt is damaged" in squeeze("evaluate", "q", code=1).stderr


def test_other_images_of_the_same_names_are_another_output(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    run, place = str(trained / "runs" / "q"), tmp_path / "images" / "a.png"
    Image.new("RGB", (70, 70)).save(place)
    arguments = ("extract-embeddings", run, "--images", "images", "--out", "out")
    squeeze(*arguments)
    squeeze(*arguments)
    Image.new("RGB", (70, 70), (200, 10, 10)).save(place)
    assert "with different images" in squeeze(*arguments, code=2).stderr
    squeeze(*arguments, "--overwrite")


def test_what_a_killed_process_left_holds_nothing_up(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    arguments = ("extract-embeddings", str(trained / "runs" / "q"), "--out", "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".codes-00000.sqz.abc.part").write_bytes(b"half")
    (tmp_path / "out" / "codes-00000.sqz").write_bytes(b"of no manifest")
    squeeze(*arguments)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["codes-00000.json", "codes-00000.sqz", "manifest.json"]
    (tmp_path / "out" / "manifest.json").write_text("{")
    assert "--overwrite" in squeeze(*arguments, code=1).stderr
    squeeze(*arguments, "--overwrite")
    assert sum(shard.images for shard in read_output(tmp_path / "out").shards) == 12


def test_nothing_of_another_programs_is_replaced(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    arguments = ("extract-embeddings", str(trained / "runs" / "q"), "--out", "out", "--overwrite")
    (tmp_path / "out").mkdir()
    for name, content in (("manifest.json", '{"name": "an app"}'), (".it.part", "a download")):
        (tmp_path / "out" / name).write_text(content)
        squeeze(*arguments, code=2)
        assert (tmp_path / "out" / name).read_text() == content
        (tmp_path / "out" / name).unlink()


def test_names_that_are_no_text_are_skipped(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for name in (b"good.png", b"bad\xff.png"):
        Image.new("RGB", (70, 70)).save(tmp_path / "images" / "it.png")
        (tmp_path / "images" / "it.png").rename(tmp_path / "images" / os.fsdecode(name))
    done = squeeze("extract-embeddings", str(trained / "runs" / "q"), "--images", "images")
    assert "not UTF-8" in done.stderr
    assert "of images" in done.stdout


def test_codes_of_another_run_are_refused(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "other"
    shutil.copytree(trained / "runs" / "q", run)
    record = json.loads((run / "run.json").read_text())
    record["digest"] = "0" * 16
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(SqueezeError, match="another run"):
        open_run(run).open(trained / "runs" / "q" / "codes" / "val.sqz")


@pytest.mark.parametrize("command", ["extract-embeddings", "features", "masks"])
def test_a_folder_has_one_writer(
    squeeze: Squeeze, trained: Path, tmp_path: Path, command: str
) -> None:
    run, parts = trained / "runs" / "q", [tmp_path / "out" / ".squeeze-00000000.part"]
    arguments = ["decode", str(run / "codes" / "test.sqz"), "--to", command]
    if command == "extract-embeddings":
        arguments = [command, str(run)]
    with locked(tmp_path / "out", "wait"):
        parts[0].touch()
        line = squeeze(*arguments, "--out", "out", code=1).stderr.splitlines()[-1]
        assert "Another process is at work on out" in line
        assert [path.name for path in parts[0].parent.iterdir() if path.name != ".lock"] == [
            parts[0].name
        ]
    squeeze(*arguments, "--out", "out", "--overwrite")
    assert not parts[0].exists()
    assert not (tmp_path / "out" / ".lock").exists()


def test_decoding_leaves_alone_what_others_write_below(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    """A training in a folder below `--out` is about to rename its part into its place."""
    part = tmp_path / "runs" / "it" / "checkpoints" / ".squeeze-00000000.part"
    part.parent.mkdir(parents=True)
    part.touch()
    codes = trained / "runs" / "q" / "codes" / "test.sqz"
    squeeze("decode", str(codes), "--to", "masks", "--out", ".")
    assert part.exists()


def test_masks_of_other_codes_that_stay_are_counted(
    squeeze: Squeeze, trained: Path, tmp_path: Path
) -> None:
    codes = trained / "runs" / "q" / "codes"
    squeeze("decode", str(codes / "val.sqz"), "--to", "masks", "--out", "masks")
    others = len(list((tmp_path / "masks").glob("*.png")))
    Image.new("L", (3, 2)).save(tmp_path / "masks" / "own.png")
    arguments = (
        "decode",
        str(codes / "test.sqz"),
        "--to",
        "masks",
        "--out",
        "masks",
        "--overwrite",
    )
    assert f"{others} masks of other codes remain in masks" in squeeze(*arguments).stderr


def test_a_refused_output_leaves_no_folder(squeeze: Squeeze, trained: Path, tmp_path: Path) -> None:
    run = trained / "runs" / "q"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    squeeze("extract-embeddings", str(run), "--out", "out", code=2)
    with pytest.raises(SqueezeError, match="wait"), locked(tmp_path / "new" / "below", "wait"):
        raise SqueezeError("wait")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "out"]


def test_names_cannot_leave_the_folder(trained: Path, tmp_path: Path) -> None:
    codec = open_run(trained / "runs" / "q")
    codes = np.zeros((1, 4, 4, 2), np.int32)
    for name in ("../evil", "/evil"):
        path = tmp_path / "codes.sqz"
        path.write_bytes(codec.encode(codes, [name]))
        from squeeze_cli.console import Reporter
        from squeeze_cli.inference.decode import decode_codes

        with pytest.raises(SqueezeError, match="would leave"):
            decode_codes(path, "masks", tmp_path / "m", Reporter(quiet=True), run=codec.folder.path)
        out = tmp_path / f"features{len(name)}"  # in a shard a name is a text like any other
        decode_codes(path, "features", out, Reporter(quiet=True), run=codec.folder.path)
        with safe_open(out / "quantized-00000.safetensors", "numpy") as file:
            assert json.loads(file.metadata()["names"]) == [name]


@pytest.mark.parametrize("batch_images", [4, 5, 64])
def test_features_of_a_stopped_decoding_go_on(
    squeeze: Squeeze, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    batch_images: int,
) -> None:  # fmt: skip
    """The second of three shards is not there; batches end within shards."""
    monkeypatch.setattr("squeeze_cli.inference.plan.IMAGES_PER_SHARD", 5)
    monkeypatch.setattr("squeeze_cli.inference.decode.BATCH_IMAGES", batch_images)
    codes = trained / "runs" / "q" / "codes" / "test.sqz"
    arguments = ("decode", str(codes), "--to", "features", "--out", "out")
    squeeze(*arguments)
    whole = content_of(tmp_path / "out")
    for name in ("manifest.json", "quantized-00001.json", "quantized-00001.safetensors"):
        (tmp_path / "out" / name).unlink()
    squeeze(*arguments)
    assert content_of(tmp_path / "out") == whole
    found = []
    for shard in read_output(tmp_path / "out").shards:
        with safe_open(shard.checked(), "numpy") as file:
            found += json.loads(file.metadata()["names"])
    assert found == list(open_run(trained / "runs" / "q").open(codes).names)
    assert "--overwrite replaces them" in squeeze(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("file", "field", "value", "part"),
    [
        ("manifest.json", "images", "two", "images must be a whole number"),
        ("manifest.json", "content", "pictures", "content must be 'codes'"),
        ("manifest.json", "run_digest", None, "run_digest must be a text"),
        ("manifest.json", "colour", "red", "colour is an unknown key"),
        ("manifest.json", "shards", 2, "codes-00001.json cannot be read"),
        ("manifest.json", "version", 4, "newer version"),
        ("manifest.json", "images", 2, "does not fit its shards"),
        ("manifest.json", "plan", "q", "does not fit its shards"),
        ("codes-00000.json", "number", 1, "number is not below shards"),
        ("codes-00000.json", "shards", 10**12, "does not fit its shards"),
        ("codes-00000.json", "images", 9, "images are more or fewer"),
        ("codes-00000.json", "skipped", [["a", "b"]], "skipped.0 must be a mapping"),
        ("codes-00000.json", "format", "a letter", "another program's"),
    ],
)
def test_a_damaged_manifest_or_record_is_one_line(
    tmp_path: Path, file: str, field: str, value: Any, part: str
) -> None:
    settings = Settings(
        content="codes", run="q", run_digest="d", source="images", plan="p", images_per_shard=4,
        space="backbone",
    )  # fmt: skip
    output = OutputFolder(tmp_path, settings, 1, [0], Reporter(quiet=True), overwrite=False)
    output.write(b"codes", record_of(settings, 0, 1, b"codes", 1))
    assert isinstance(output.finish(), Manifest)
    assert read_output(tmp_path).shards[0].checked().read_bytes() == b"codes"
    place = tmp_path / file
    place.write_text(json.dumps(json.loads(place.read_text()) | {field: value}))
    with pytest.raises(SqueezeError) as raised:
        read_output(tmp_path)
    assert part in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value"), [("shards", 3), ("plan", "q"), ("run_digest", "e"), ("precision", "16")]
)
def test_records_of_two_outputs_are_never_merged(tmp_path: Path, field: str, value: object) -> None:
    settings = Settings(
        content="codes", run="q", run_digest="d", source="images", plan="p", images_per_shard=4,
        space="backbone",
    )  # fmt: skip
    output = OutputFolder(tmp_path, settings, 2, [0, 1], Reporter(quiet=True), overwrite=False)
    for number in (0, 1):
        output.write(b"codes", record_of(settings, number, 2, b"codes", 1))
    assert merge_records(tmp_path).images == 2
    place = tmp_path / "codes-00001.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {field: value}))
    with pytest.raises(
        SqueezeError, match=rf"codes-00001.sqz in .* two outputs .*{field}.*: remove"
    ):
        merge_records(tmp_path)
    if field == "shards":
        assert output.find(0) is not None
        assert output.find(1) is None  # it is made again
