"""Division of an extraction into shards, which depends on the list of images alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from squeeze_cli.codec.manifest import Content
from squeeze_cli.data.samples import Sample

# Default limit on the images of a shard: about a minute of a core, and some dozen kilobytes of codes.
IMAGES_PER_SHARD = 1000
# A plan of at least `EVEN_SHARDS` shards occupies two, four or eight workers evenly. Shards are not made
# smaller than `FEWEST_IMAGES` for this (half of it after rounding), because each has a header.
EVEN_SHARDS, FEWEST_IMAGES = 8, 500
# Default limit on the bytes of a shard of embeddings.
EMBEDDING_SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Shard:
    """Number `number` of a plan's shards, and its images."""

    number: int
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Plan:
    """All images of an extraction, in order, and the number of images per shard."""

    samples: Sequence[Sample]
    images_per_shard: int

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.samples) // self.images_per_shard)

    def shard(self, number: int) -> Shard:
        """Return a shard, which depends on its own images only."""
        begin = number * self.images_per_shard
        return Shard(number, self.samples[begin : begin + self.images_per_shard])

    def digest(self) -> str:
        """Return a digest of all names in order."""
        return digest_of(sample.name for sample in self.samples)


def most_images(content: Content, points_per_image: int) -> int:
    """Return the most images of a shard by default, given the number of values per image."""
    if content == "codes":
        return IMAGES_PER_SHARD
    return max(1, min(IMAGES_PER_SHARD, EMBEDDING_SHARD_BYTES // (4 * points_per_image)))


def choose_images_per_shard(images: int, most: int) -> int:
    """Return the default number of images per shard: at most `most`, and the same on every machine.

    Up to `EVEN_SHARDS` shards are a power of two in number.
    """
    shards = 1
    while shards < EVEN_SHARDS and images > shards * FEWEST_IMAGES:
        shards *= 2
    return min(most, -(-images // shards))


def stamps_of(samples: Iterable[Sample]) -> str:
    """Return a digest of the sizes and times of image files, without reading them."""
    return digest_of(f"{sample.name}\0{sample.stamp()}" for sample in samples)


def digest_of(texts: Iterable[str]) -> str:
    """Return a digest of texts in order, sixteen hexadecimal digits."""
    content = "".join(f"{text}\0" for text in texts)
    return blake2b(content.encode(), digest_size=8).hexdigest()
