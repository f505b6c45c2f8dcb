from __future__ import annotations

import pickle

import pytest
import torch
from lightning import LightningModule, Trainer

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.data.datamodule import ImageDataset, OxfordPetDataModule
from squeeze_cli.data.samples import FileSample, UnreadableImageError
from squeeze_cli.data.splits import build_splits
from squeeze_cli.data.transforms import Preprocessing
from tests.pets import TINY_NAMES


@pytest.fixture
def splits(tiny_pets):
    return build_splits("oxford-pet", tiny_pets, 32, seed=42, subset_size=None)


def test_dataset_gives_image_mask_and_index(splits):
    dataset = ImageDataset(splits.test, Preprocessing(40))
    image, mask, index = dataset[2]
    assert (len(dataset), index) == (len(TINY_NAMES["test"]), 2)
    assert (image.shape, image.dtype) == ((3, 40, 40), torch.float32)
    assert (mask.shape, mask.dtype) == ((40, 40), torch.uint8)
    assert set(mask.unique().tolist()) == {0, 1, 2}


def test_dataset_travels_to_workers_and_ignores_missing_trimaps(splits, tmp_path):
    sample = FileSample("bare", splits.test[0].image_path)
    dataset = pickle.loads(pickle.dumps(ImageDataset([sample], Preprocessing(8))))
    assert dataset[0][1].unique().tolist() == [IGNORE_INDEX]
    gone = ImageDataset([FileSample("gone", tmp_path / "gone.jpg")], Preprocessing(8))
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg"):
        gone[0]


def test_loaders_give_the_agreed_shapes_and_types(splits):
    module = OxfordPetDataModule(splits, Preprocessing(40), batch_size=3, num_workers=0, seed=1)
    images, masks, indices = next(iter(module.train_dataloader()))
    assert (images.shape, images.dtype) == ((3, 3, 40, 40), torch.float32)
    assert (masks.shape, masks.dtype) == ((3, 40, 40), torch.int64)
    assert (indices.shape, indices.dtype) == ((3,), torch.int64)
    sizes = [len(batch[2]) for batch in module.test_dataloader()]
    assert sizes == [3, 1]
    order = torch.cat([batch[2] for batch in module.val_dataloader()])
    assert order.tolist() == [0, 1]


def test_worker_processes_give_the_same_batches(splits):
    alone, helped = (
        OxfordPetDataModule(splits, Preprocessing(16), 3, num_workers=workers, seed=1)
        for workers in (0, 1)
    )
    pairs = zip(alone.train_dataloader(), helped.train_dataloader(), strict=True)
    for one, other in pairs:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


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
        default_root_dir=folder,
    )
    module = OxfordPetDataModule(splits, Preprocessing(8), batch_size=3, num_workers=0, seed=1)
    trainer.fit(recorder, module, ckpt_path=checkpoint)
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
