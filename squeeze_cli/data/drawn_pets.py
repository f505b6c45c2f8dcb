"""Pet-like photographs with trimaps that are drawn on the fly and need no data."""

from __future__ import annotations

from dataclasses import dataclass

from squeeze_cli.data.samples import SyntheticSample


@dataclass(frozen=True)
class SyntheticPetSource:
    """Drawn animals on textured backgrounds, the same for everyone on every machine.

    They try the whole pipeline without a download and without a licence. Figures on them say
    nothing of photographs.

    Attributes:
        count_trainval: images in 'trainval'.
        count_test: images in 'test', none of which is in 'trainval'.
        seed: of all the drawings.
        image_size_px: side of the square images in pixels.
    """

    count_trainval: int = 160
    count_test: int = 40
    seed: int = 0
    image_size_px: int = 224

    def samples(self, split: str) -> list[SyntheticSample]:
        """List a split, 'trainval' or 'test'.

        Trainval has the even indices and test the odd ones, so neither changes with the other's
        count.

        Raises:
            ValueError: another split.
        """
        if split not in ("trainval", "test"):
            raise ValueError(f"split must be 'trainval' or 'test', not {split!r}")
        count, first = (self.count_trainval, 0) if split == "trainval" else (self.count_test, 1)
        return [
            SyntheticSample(f"synthetic_{index:06d}", self.seed, index, self.image_size_px)
            for index in range(first, 2 * count, 2)
        ]
