from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from threading import Barrier, Thread, current_thread
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.config.schema import TrainingConfig
from squeeze_cli.console import Reporter
from squeeze_cli.data.drawn_pets import SyntheticSample
from squeeze_cli.data.images import SampleDataset, label_plane, read_pixels
from squeeze_cli.data.reading import UnreadableImageError
from squeeze_cli.data.samples import FileSample, Sample
from squeeze_cli.data.transforms import Preprocessing
from squeeze_cli.errors import SqueezeError
from squeeze_cli.features.datamodule import SegmentationDataModule
from squeeze_cli.features.prepare import Ranks, Trunk, require_finite
from squeeze_cli.features.store import FeatureStore, StoreKey
from tests.pets import TINY_NAMES, cut, noise_image, splits_of

CPU = torch.device("cpu")


@pytest.fixture
def splits(tiny_pets):
    found = splits_of("oxford-pet", tiny_pets, seed=42)
    return {"train": found.train, "val": found.val, "test": found.test}


class Images:
    """A trunk whose states are the normalized images."""

    device = CPU
    backbone = SimpleNamespace(
        inference_batch=2, evaluation_images=1, vectors_per_image=1, feature_dim=3
    )
    rows = Trunk.rows

    def __init__(self, size, num_workers=0):
        self.preprocessing = Preprocessing((size, size))
        self.num_workers = num_workers

    def states(self, pixels):
        return self.preprocessing.normalize(pixels)


def make(splits, size=16, batch_size=3, seed=1, num_workers=0, store=None):
    training = TrainingConfig(batch_size=batch_size, seed=seed)
    trunk = Images(size, num_workers)
    module = SegmentationDataModule(splits, trunk, store, training, Reporter(quiet=True))
    module.setup()
    return module


def drawn(count):
    """A data module over `count` images that nobody looks at."""
    samples = [SyntheticSample(str(i), 0, i, 32) for i in range(count)]
    return {"train": samples, "val": samples}


def orders(module, epoch):
    """The positions of each batch of an epoch."""
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader.batch_sampler)


@pytest.mark.parametrize("stored", [True, False])
def test_processes_that_disagree_on_an_image_all_stop(splits, tmp_path, monkeypatch, stored):
    """A read that fails in one of two processes, once, is an error in both."""
    given, waiting = [], Barrier(2, timeout=60)

    def agree(value):
        given.append(value)
        waiting.wait()
        return given[0] == given[1]

    ranks = {name: Ranks(number, 2, waiting.wait, agree) for number, name in enumerate("ab")}
    monkeypatch.setattr(
        SegmentationDataModule, "ranks", property(lambda _: ranks[current_thread().name])
    )
    broken = replace(splits["train"][0], image_path=tmp_path / "away.jpg")

    def run(name):
        store = FeatureStore(tmp_path, StoreKey("b", "w", "l", "p", "32")) if stored else None
        train = [broken if name == "b" else splits["train"][0], *splits["train"][1:]]
        try:
            make({"train": train}, store=store)
        except SqueezeError as error:
            told[name] = str(error)

    told: dict[str, str] = {}
    threads = [Thread(target=run, args=(name,), name=name) for name in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(told) == ["a", "b"]
    assert all("by some processes and not by others" in text for text in told.values())


def images_of(samples: Sequence[Sample], preprocessing: Preprocessing) -> SampleDataset:
    return SampleDataset(
        samples, partial(read_pixels, preprocessing=preprocessing),
        partial(label_plane, preprocessing=preprocessing),
    )  # fmt: skip


def test_dataset_gives_pixels_mask_and_index(splits):
    dataset = images_of(splits["test"], Preprocessing((40, 40)))
    pixels, mask, index = dataset[2]
    assert (len(dataset), index) == (len(TINY_NAMES["test"]), 2)
    assert (pixels.shape, pixels.dtype) == ((40, 40, 3), torch.uint8)
    assert (mask.shape, mask.dtype) == ((40, 40), torch.uint8)
    assert set(mask.unique().tolist()) == {0, 1, 2}


def test_without_labels_classes_are_0_on_the_image_and_padding_is_ignored(splits, tmp_path):
    sample = FileSample("bare", splits["test"][0].image_path)
    sample = replace(sample, facts=sample.read().facts)
    dataset = pickle.loads(pickle.dumps(images_of([sample], Preprocessing((8, 8), "pad"))))
    pixels, classes, _ = dataset[0]
    height = round(8 / 47 * 31)
    assert classes[:height].unique().tolist() == [0]
    assert classes[height:].unique().tolist() == [IGNORE_INDEX]
    assert pixels[height:].float().std(dim=(0, 1)).max() == 0
    gone = images_of([FileSample("gone", tmp_path / "gone.jpg")], Preprocessing((8, 8)))
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg"):
        gone[0]


@pytest.mark.parametrize("use_store", [False, True])
def test_broken_images_leave_their_split_and_the_rest_keeps_its_order(
    splits, tmp_path, tiny_pets, use_store, capsys
):
    noise_image(47, 31).save(tmp_path / "cut.jpg")
    cut(tmp_path / "cut.jpg")
    broken = FileSample("cut", tmp_path / "cut.jpg")
    wrong = replace(splits["val"][0], name="wrong", image_path=tmp_path / "wrong.png")
    noise_image(31, 47).save(tmp_path / "wrong.png")
    mixed = {"train": [broken, *splits["train"]], "val": [splits["val"][0], wrong]}
    store = FeatureStore(tmp_path, StoreKey("b", "w", "f", "p", "32")) if use_store else None
    module = make(mixed, store=store)
    assert module.splits == {"train": list(splits["train"]), "val": [splits["val"][0]]}
    assert [name for name, _ in module.skipped] == ["cut", "wrong"]
    reasons = [reason for _, reason in module.skipped]
    assert "truncated" in reasons[0]
    assert "has 31 x 47 pixels, its mask 47 x 31" in reasons[1]
    positions = [int(i) for _, _, batch in module.batches("train") for i in batch]
    assert positions == list(range(8))
    with pytest.raises(SqueezeError, match=r"No image of val can be read.*truncated"):
        make({"train": splits["train"], "val": [broken]}, store=store)


def test_batches_have_the_agreed_shapes_and_types(splits):
    module = make(splits, size=40)
    batch = next(iter(module.train_dataloader()))
    images, masks, indices = module.on_after_batch_transfer(batch, 0)
    assert (images.shape, images.dtype) == ((3, 3, 40, 40), torch.float32)
    assert (masks.shape, masks.dtype) == ((3, 40, 40), torch.uint8)
    assert (indices.shape, indices.dtype) == ((3,), torch.int64)
    sizes = [len(batch[2]) for batch in module.test_dataloader()]
    assert sizes == [3, 1]
    order = torch.cat([batch[2] for batch in module.val_dataloader()])
    assert order.tolist() == [0, 1]


def test_batches_outside_a_trainer_cover_the_split(splits):
    module = make(splits)
    images, masks, _ = next(module.batches("test"))
    again = module.batch("test", [1, 0])
    assert torch.equal(images[0], again[0][1])
    assert torch.equal(masks[1], again[1][0])
    shuffled = [int(i) for _, _, batch in module.batches("train", 3, shuffled=True) for i in batch]
    assert sorted(shuffled) == list(range(8)) != shuffled


def test_worker_processes_give_the_same_batches(splits):
    alone, helped = (make(splits, num_workers=workers) for workers in (0, 1))
    pairs = zip(alone.train_dataloader(), helped.train_dataloader(), strict=True)
    for one, other in pairs:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 10, 16])
def test_an_epoch_has_each_image_once(count):
    batches = orders(make(drawn(count), batch_size=4), 3)
    assert sorted(index for batch in batches for index in batch) == list(range(count))


def test_no_training_batch_has_a_single_image():
    module = make(drawn(9), batch_size=4)
    left_out = set()
    for epoch in range(12):
        batches = orders(module, epoch)
        assert [len(batch) for batch in batches] == [4, 4]
        left_out |= set(range(9)) - {index for batch in batches for index in batch}
    assert len(left_out) > 4  # another one in every epoch
    assert [len(batch[2]) for batch in module.evaluation_dataloader("train")] == [4, 4, 1]
    assert orders(make(drawn(1), batch_size=4), 0) == [[0]]


def test_order_depends_on_seed_and_epoch_which_are_not_interchangeable():
    one, other = make(drawn(50), seed=1), make(drawn(50), seed=2)
    assert orders(one, 2) == orders(make(drawn(50), seed=1), 2)
    assert orders(one, 2) != orders(one, 3)
    assert orders(one, 2) != orders(other, 1)


class _Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch[2].tolist()))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _train(splits, folder, epochs, checkpoint=None):
    recorder = _Recorder()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(recorder, datamodule=make(splits, size=8), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
def test_lightning_sets_the_epoch_and_a_resumed_run_continues_the_order(splits, tmp_path):
    unbroken = _train(splits, tmp_path, epochs=3)
    _train(splits, tmp_path, epochs=1)
    resumed = _train(splits, tmp_path, epochs=3, checkpoint=tmp_path / "1.ckpt")
    assert resumed == [entry for entry in unbroken if entry[0] >= 1]
    by_epoch = [[batch for epoch, batch in unbroken if epoch == number] for number in range(3)]
    assert by_epoch[0] != by_epoch[1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_states_that_are_not_finite_are_named(bad):
    states = torch.full((3, 2, 4, 4), 3e38)  # finite, although their sum is not
    require_finite(states, ["a", "b", "c"])
    states[1, 0, 2, 3] = bad
    with pytest.raises(SqueezeError, match=r"features of b are NaN or infinite \(1 of 3 images\)"):
        require_finite(states, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("channels", "vectors", "images"), [(4, 1, 16), (768, 49, 16), (2048, 784, 5), (4, 9000, 3)]
)
def test_evaluation_batches_are_bounded(splits, channels, vectors, images):
    trunk = Images(16)
    trunk.backbone = SimpleNamespace(
        inference_batch=2, evaluation_images=16, vectors_per_image=vectors, feature_dim=channels
    )
    data = SegmentationDataModule(
        splits, trunk, None, TrainingConfig(batch_size=3), Reporter(quiet=True)
    )
    assert data.evaluation_batch_size == images
