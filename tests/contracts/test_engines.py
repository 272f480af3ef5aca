"""What every engine promises in every precision, of whole extractions on texts of nasty lengths."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedsvc import Settings, Text, extract, extract_files, load_model, masks
from embedsvc.errors import MissingExtraError, SettingsError, StoreMismatchError
from embedsvc.models import engines
from embedsvc.models.base import Encoder, LoadOptions
from embedsvc.models.engines import Precision
from embedsvc.models.wordpiece import load_tokenizer
from embedsvc.types import Block, Mode, Pass, Vectors
from tests.models.tiny_bert import CONFIG, VOCABULARY, Draw, make_tensors, reference, write_folder

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("engines")]

RNG = np.random.default_rng(3)
LIMIT = CONFIG["max_position_embeddings"]
ROOM = LIMIT - 2  # beside [CLS] and [SEP]
# Nothing, one token, exactly the limit, one over, far over; then whatever comes.
LENGTHS = (0, 1, 1, ROOM, ROOM + 1, 50, *RNG.integers(0, ROOM + 3, 20))
TEXTS = [Text(f"row {at}", " ".join(RNG.choice(VOCABULARY[5:13], size))) for at, size in enumerate(LENGTHS)]
TENSORS = make_tensors(n_classes=3)
TAPS = ("pre_dropout", "post_dropout", "logits", "pooled_output", "cls", "mean", "layer.0", "layer.1")
PASSES = (Pass(), Pass(Mode.TRAINING, 0, 7), Pass(Mode.TRAINING, 1, 7))
SETTINGS = {"taps": TAPS, "modes": (Mode.INFERENCE, Mode.TRAINING), "passes": 2, "seed": 7}
# Against BERT in float64; docs/speed.md states the first.
TOLERANCE = {Precision.FLOAT32: 1e-5, Precision.BFLOAT16: 0.1, Precision.INT8: 0.1}


def possible() -> list[tuple[str, Precision]]:
    """Every engine in every precision that it has, installed or not."""
    found = []
    for name in engines.ENGINES:
        for precision in Precision:
            try:
                engines.choose(name, precision)
            except SettingsError:
                continue
            except MissingExtraError:
                pass
            found.append((name, precision))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bert"), TENSORS)


@pytest.fixture(scope="module", params=possible(), ids="-".join)
def options(request: pytest.FixtureRequest, folder: Path) -> LoadOptions:
    name, precision = request.param
    options = LoadOptions(engine=name, precision=precision)
    try:
        load_model(str(folder), options)
    except (MissingExtraError, SettingsError) as error:
        pytest.skip(str(error))
    return options


@pytest.fixture(scope="module")
def encoder(options: LoadOptions, folder: Path) -> Encoder:
    return load_model(str(folder), options)


def columns(blocks: Iterable[Block]) -> dict[str, Vectors]:
    blocks = list(blocks)
    return {name: np.concatenate([block.vectors[name] for block in blocks]) for name in blocks[0].vectors}


@pytest.fixture(scope="module")
def plain(encoder: Encoder) -> dict[str, Vectors]:
    return columns(extract(TEXTS, encoder, Settings(**SETTINGS)))


def expected(encoder: Encoder, folder: Path) -> Mapping[str, NDArray[np.float64]]:
    """Every variant by BERT in float64 on padded rows, cut by hand."""
    tokenizer = load_tokenizer(folder)
    ids = [tokenizer.with_special(row[:ROOM]).tolist() for row in tokenizer.encode_batch([t.text for t in TEXTS])]
    keys = masks.row_keys(text.id for text in TEXTS)
    found: dict[str, NDArray[np.float64]] = {}
    for pass_ in PASSES:
        draw = Draw(keys, pass_, encoder.spec.sites) if pass_.mode is Mode.TRAINING else None
        taps = reference(TENSORS, CONFIG, ids, draw)
        taps["pre_dropout"] = post = taps["pooled_output"]
        if draw:
            seed, index = pass_.draw
            rate, width = encoder.head.rate, post.shape[1]
            kept = masks.keep(keys, seed=seed, passes=[index], site=masks.HEAD_SITE, units=width, rate=rate)[0]
            post = post * kept / (1 - rate)
        taps["post_dropout"] = post
        taps["logits"] = post @ TENSORS["classifier.weight"].T + TENSORS["classifier.bias"]
        suffix = f"training.{pass_.index}" if draw else "inference"
        found |= {f"{tap}.{suffix}": value for tap, value in taps.items()}
    return found


def test_every_variant_is_that_of_the_reference(encoder, options, folder, plain):
    wanted = expected(encoder, folder)
    assert len(plain) == 3 * len(TAPS) - 1, "post_dropout.inference is pre_dropout.inference"
    for name, column in plain.items():
        # A tap in logits adds up the errors of all its units.
        tolerance = TOLERANCE[options.precision] * (4 if name.startswith("logits") else 1)
        np.testing.assert_allclose(column, wanted[name], atol=tolerance, err_msg=name)


@pytest.mark.parametrize("token_budget", [1, 25, 10_000])
def test_the_default_taps_are_the_same_with_and_without_others(encoder, options, plain, token_budget):
    """Alone they need the last layer for [CLS] only, which is another graph."""
    alone = columns(extract(TEXTS, encoder, Settings(**SETTINGS | {"taps": ()}, token_budget=token_budget)))
    assert {name.partition(".")[0] for name in alone} == {"pre_dropout", "post_dropout", "logits"}
    for name, column in alone.items():
        np.testing.assert_allclose(column, plain[name], atol=TOLERANCE[options.precision] * 4, err_msg=name)


def test_lengths_are_counted_and_cuts_flagged(encoder):
    (block,) = extract(TEXTS, encoder, Settings(**SETTINGS))
    assert block.n_tokens.tolist() == [min(size + 2, LIMIT) for size in LENGTHS]
    assert block.truncated.tolist() == [size > ROOM for size in LENGTHS]


@pytest.mark.parametrize(
    "changes", [{"token_budget": 1}, {"token_budget": 25}, {"token_budget": 10_000}, {"rows_per_part": 3}]
)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("step", [1, -1], ids=["in order", "reversed"])
def test_vectors_depend_on_neither_batches_nor_threads_nor_order(encoder, options, plain, changes, workers, step):
    again = columns(extract(TEXTS[::step], encoder, Settings(**SETTINGS, **changes), workers=workers))
    for name, column in plain.items():
        np.testing.assert_allclose(again[name][::step], column, atol=TOLERANCE[options.precision], err_msg=name)
    for index in range(2):
        post = f"post_dropout.training.{index}"
        np.testing.assert_array_equal(again[post][::step] == 0, plain[post] == 0)


def test_the_same_run_gives_the_same_bits(encoder, plain):
    for name, column in columns(extract(TEXTS, encoder, Settings(**SETTINGS), workers=3)).items():
        assert column.tobytes() == plain[name].tobytes(), name


class Stop(Exception):
    pass


def run(folder: Path, source: Path, out: Path, options: LoadOptions, *, stop_after: int | None = None) -> None:
    """Extract to a set of parts of three rows; stopped from within once so many rows are encoded."""
    rows = 0

    def progress(new: int, tokens: int) -> None:
        nonlocal rows
        rows += new
        if stop_after is not None and rows >= stop_after:
            raise Stop

    settings = Settings(**SETTINGS, rows_per_part=3)
    extract_files(
        [str(source)],
        out,
        model=str(folder),
        settings=settings,
        load_options=options,
        workers=1,
        started=lambda rows, manifest: progress,
    )


def fingerprint(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


OTHERS = [LoadOptions(engine=name, precision=precision) for name, precision in possible()]


def test_a_stopped_run_goes_on_under_its_own_engine_and_refuses_any_other(options, folder, tmp_path):
    source, out, whole = tmp_path / "texts.txt", tmp_path / "out", tmp_path / "whole"
    source.write_text("".join(f"{text.text or 'a'}\n" for text in TEXTS), encoding="utf-8")
    with pytest.raises(Stop):
        run(folder, source, out, options, stop_after=15)
    begun = fingerprint(out)
    assert any(name.startswith("part-") for name in begun), "it stopped after a part was written"
    for other in OTHERS:
        if (other.engine, other.precision) == (options.engine, options.precision):
            continue
        try:
            load_model(str(folder), other)
        except (MissingExtraError, SettingsError):
            continue
        with pytest.raises(StoreMismatchError) as caught:
            run(folder, source, out, other)
        if other.engine != options.engine:
            assert f"engine: this run has {other.engine}, the stored one {options.engine}" in str(caught.value)
        if other.precision != options.precision:
            assert f"precision: this run has {other.precision}, the stored one {options.precision}" in str(caught.value)
        assert fingerprint(out) == begun, "what is refused changes nothing"
    run(folder, source, out, options)
    run(folder, source, whole, options)
    assert fingerprint(out) == fingerprint(whole)
