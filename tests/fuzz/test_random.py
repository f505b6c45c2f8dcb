"""Options and files of all kinds at random: an error of one line, or no other result.

`pytest tests/fuzz --hypothesis-profile=long` draws a hundred times as many.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from squeeze_cli.cli import app
from squeeze_cli.codec.container import CodesFile, encode_codes
from squeeze_cli.codec.manifest import EarlierManifest, EarlierShard, ShardRecord, sum_up
from squeeze_cli.codec.prior import SymbolModel
from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.codec.shards import read_output
from squeeze_cli.config.record import RunRecord
from squeeze_cli.config.resolve import load_experiment, to_yaml
from squeeze_cli.config.schema import FIELDS, SECTIONS, flag_of
from squeeze_cli.errors import SqueezeError, UsageError
from tests.fuzz.crafted import craft, craft_prior, craft_v1, parts, take_apart
from tests.records import record

SIZES, GRID = (10, 300), (3, 4)
CODES = np.random.default_rng(1).integers(0, SIZES, (5, *GRID, 2))
FILE = encode_codes(CODES, list("abcde"), quantizer="rvq", code_sizes=SIZES, run="0123")
PACKED_1 = Path(__file__).parents[1] / "inference/older_runs/rvq/packed/codes-00000.safetensors"
FILE_1, CODES_1 = PACKED_1.read_bytes(), CodesFile(PACKED_1).read()

PRIOR = (PACKED_1.parents[1] / "prior.safetensors").read_bytes()

numbers = st.integers() | st.floats() | st.integers(0, 1000)
texts = st.text(max_size=9) | st.sampled_from(["", "8,5,5", "vq", "auto", "1e9", "nan", "-1", "~"])
values = st.none() | st.booleans() | numbers | texts
anything = st.recursive(
    values, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)
at_random = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# The folder of the run is not made: no option may write, so a name does no harm.
OPTIONS = [flag.name.partition("/")[0] for key in FIELDS if (flag := flag_of(key)).name]


@at_random
@given(
    command=st.sampled_from(["train", "baseline"]),
    options=st.lists(st.tuples(st.sampled_from(OPTIONS), values.map(str)), max_size=4),
)
def test_options(command: str, options: list[tuple[str, str]]) -> None:
    arguments = [f"{name}={value}" for name, value in options]
    result = CliRunner().invoke(app, [command, "--dry-run", *arguments])
    assert isinstance(result.exception, SystemExit | None), arguments
    assert result.exit_code in (0, 2), result.output
    if result.exit_code:
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: ")


@at_random
@given(text=st.text(max_size=60) | st.text("ab:1[]{}&*<!? \n-'\"|>~", max_size=60))
def test_texts_of_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    with suppress(UsageError):
        load_experiment(tmp_path / "c.yaml")


@at_random
@given(
    section=st.sampled_from(list(SECTIONS)),
    fields=st.dictionaries(st.sampled_from([key.rpartition(".")[2] for key in FIELDS]), anything),
)
def test_configurations(section: str, fields: dict[str, object], tmp_path: Path) -> None:
    content = {section: fields} if section else fields
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    try:
        found = load_experiment(tmp_path / "c.yaml")
    except UsageError:
        return
    (tmp_path / "again.yaml").write_text(to_yaml(found), encoding="utf-8")
    assert load_experiment(tmp_path / "again.yaml") == found


def changed(content: object, way: list[int], value: object) -> object:
    """Return `content` with one value somewhere in it, chosen by `way`, replaced."""
    if way and isinstance(content, dict) and content:
        name = sorted(content)[way[0] % len(content)]
        return content | {name: changed(content[name], way[1:], value)}
    if way and isinstance(content, list) and content:
        place = way[0] % len(content)
        return [*content[:place], changed(content[place], way[1:], value), *content[place + 1 :]]
    return value


ways = st.lists(st.integers(0, 99), min_size=1, max_size=4)


@at_random
@given(way=ways, value=anything)
def test_records(way: list[int], value: object, tmp_path: Path) -> None:
    content = {"schema_version": 1, **record(0.5)}
    (tmp_path / "run.json").write_text(json.dumps(changed(content, way, value)))
    with suppress(SqueezeError):
        RunRecord.read(tmp_path / "run.json").to_json("now")


@at_random
@given(way=ways, value=anything)
def test_manifests_of_earlier_versions(way: list[int], value: object, tmp_path: Path) -> None:
    shard = EarlierShard(file="codes-00000.sqz", bytes=9, blake2b="0", names=["a"], sums={})
    content = EarlierManifest(
        format="squeeze-embeddings", version=2, content="codes", run="q", run_digest="d",
        source="images", space="backbone", images=1, bytes=9, shards=[shard],
    ).model_dump()  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(changed(content, way, value)))
    with suppress(SqueezeError):
        read_output(tmp_path)


@at_random
@given(way=ways, value=anything, damaged=st.sampled_from(["manifest.json", "codes-00000.json"]))
def test_manifests_and_records(way: list[int], value: object, damaged: str, tmp_path: Path) -> None:
    record = ShardRecord(
        content="codes", run="q", run_digest="d", source="images", plan="p", images_per_shard=9,
        space="backbone", number=0, shards=1, images=1, bytes=9, blake2b="0", contents="c", stamps="s",
        sums={"vectors": 2.0}, skipped=[{"name": "b", "reason": "broken"}],
    )  # fmt: skip
    contents = {"manifest.json": sum_up(record, [record]), "codes-00000.json": record}
    for name, model in contents.items():
        content = model.model_dump()
        content = changed(content, way, value) if name == damaged else content
        (tmp_path / name).write_text(json.dumps(content))
    with suppress(SqueezeError):
        read_output(tmp_path)


@at_random
@given(
    header=st.dictionaries(
        st.sampled_from(["quantizer", "code_sizes", "grid", "coding", "prior", "names",
                         "images_per_block"]),
        st.just(...) | anything | st.lists(st.integers(0, 300) | texts, max_size=6),
        max_size=2,
    ),
    lengths=st.just(take_apart(FILE).lengths) | anything,
    flips=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=3),
)  # fmt: skip
def test_codes_files_with_right_checksums(
    header: dict[str, object], lengths: object, flips: list[tuple[int, int]], tmp_path: Path,
) -> None:  # fmt: skip
    blocks = bytearray(take_apart(FILE).blocks)
    for place, value in flips:
        blocks[place % len(blocks)] ^= value
    content = craft(FILE, header, lengths=lengths, blocks=bytes(blocks))
    (tmp_path / "codes.sqz").write_bytes(content)
    with suppress(SqueezeError):
        file = CodesFile(tmp_path / "codes.sqz")
        assert np.array_equal(file.read(), CODES[: len(file)])
        assert len(file) in (0, len(CODES))


@at_random
@given(
    metadata=st.dictionaries(
        st.sampled_from(["version", "format", "code_sizes", "grid", "coding", "prior"]),
        st.none() | anything.map(json.dumps) | st.text("0123456789[],", max_size=12),
        max_size=2,
    ),
    name=st.sampled_from(["lengths", "names", "payload", "extra"]),
    kind=st.sampled_from(["<u1", "<u2", "<u4", "<u8", "<i8", "<f4"]),
    flips=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=3),
)
def test_codes_files_of_version_1_with_right_checksums(
    metadata: dict[str, str | None], name: str, kind: str, flips: list[tuple[int, int]],
    tmp_path: Path,
) -> None:  # fmt: skip
    old = parts(FILE_1)[1].get(name, np.arange(3, dtype=np.uint8)).copy()
    for place, value in flips:
        old[place % len(old)] ^= value
    tensors = {} if name == "extra" and not flips else {name: old.astype(kind)}
    (tmp_path / "codes").write_bytes(craft_v1(FILE_1, metadata, **tensors))
    with suppress(SqueezeError):
        file = CodesFile(tmp_path / "codes")
        if file.header.grid == CODES_1.shape[1:3]:  # which `TrainedRun.open` demands
            assert np.array_equal(file.read(), CODES_1)


@at_random
@given(
    code=st.integers(0, 2),
    field=st.sampled_from(SymbolModel._fields),
    places=st.lists(st.tuples(st.integers(0, 999), st.integers(-(2**31), 2**31 - 1)), max_size=4),
    kind=st.sampled_from([None, "<i1", "<i4", "<f4"]),
    rows=st.integers(-1, 3),
)  # fmt: skip
def test_priors_with_right_digests(
    code: int, field: str, places: list[tuple[int, int]], kind: str | None, rows: int, tmp_path: Path,
) -> None:  # fmt: skip
    own = parts(PRIOR)[1][f"{code}.{field}"]
    changed = own.copy()
    for place, value in places:
        changed.flat[place % changed.size] = np.int64(value).astype(own.dtype)
    changed = changed[: rows or None].astype(kind or own.dtype)
    path = tmp_path / "prior.safetensors"
    path.write_bytes(craft_prior(PRIOR, **{f"q{code}_{field}": changed}))
    with suppress(SqueezeError):
        prior = read_prior(path)
        codes = np.random.default_rng(0).integers(
            0, prior.code_sizes, (3, *prior.grid, 3), np.int32
        )
        content = encode_codes(
            codes,
            list("abc"),
            quantizer="rvq",
            code_sizes=prior.code_sizes,
            run="0123",
            prior=prior,
        )
        (tmp_path / "codes.sqz").write_bytes(content)
        assert np.array_equal(CodesFile(tmp_path / "codes.sqz", prior).read(), codes)
