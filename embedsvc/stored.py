"""A set as it lies on disk: its manifest, its parts, and whether they are whole."""

from __future__ import annotations

from embedsvc.arrow import METADATA_KEY, digest, schema_of, writer_options
from embedsvc.errors import StoreError
from embedsvc.manifest import Manifest
from embedsvc.parts import Piece, check_part, index_of
from embedsvc.storage import Place, atomic_file, entries, place, readable

__all__ = [
    "MANIFEST",
    "file_manifest",
    "intact",
    "partial_folder",
    "pieces_of",
    "read_manifest",
    "verify",
    "write_parquet",
]

MANIFEST = "manifest.json"


def pieces_of(path: str | Place, *, allow_partial: bool = False) -> tuple[Manifest, tuple[Piece, ...]]:
    """The manifest of a stored set and where its parts are.

    Raises
    ------
    StoreError
        If there is no set, or it is unfinished and `allow_partial` is not set.
    """
    path = place(path)
    if path.is_file():
        manifest = file_manifest(path)
        return manifest, tuple(Piece(path, number, part.rows, manifest) for number, part in enumerate(manifest.parts))
    folder = path if path.exists() else partial_folder(path)
    if not (folder / MANIFEST).exists():
        problem = "holds no embedding set: it has no manifest.json" if path.exists() else "does not exist"
        raise StoreError(f"{path} {problem}", "Give a folder or file that embedsvc extract wrote.")
    manifest = read_manifest(folder / MANIFEST)
    if manifest.complete:
        return manifest, tuple(Piece(folder / part.name, 0, part.rows, manifest) for part in manifest.parts)
    whole = [(index, entry) for entry in entries(folder) if (index := index_of(entry.name)) is not None]
    if not allow_partial:
        count = "1 part is" if len(whole) == 1 else f"{len(whole)} parts are"
        raise StoreError(
            f"{path} is unfinished: {count} there, of {manifest.rows_per_part} rows each",
            "Run the same command again to finish it, or read what is there with allow_partial=True.",
        )
    checked = ((entry, check_part(entry, index, manifest)) for index, entry in whole)
    return manifest, tuple(Piece(entry, 0, done.part.rows, manifest) for entry, done in checked if done)


def verify(path: str | Place) -> Manifest:
    """Read a finished set completely and compare every part with its digest.

    Raises
    ------
    StoreError
        Naming each part that is torn, missing or changed.
    """
    manifest, pieces = pieces_of(path)
    bad = []
    for part, piece in zip(manifest.parts, pieces, strict=True):
        try:
            table = piece.read()
        except StoreError:
            bad.append(f"{part.name} is torn or missing")
            continue
        if digest(table) != part.sha256:
            bad.append(f"{part.name} was changed after it was written")
    if bad:
        what = "the file" if place(path).is_file() else "those parts"
        raise StoreError(
            f"{path} is damaged: {'; '.join(bad)}",
            f"Delete {what} and run the command that wrote it again.",
        )
    return manifest


def intact(manifest: Manifest, path: Place) -> bool:
    """Whether every part of a finished set is there with all its rows; a look at the footers, not at the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.is_file():
            metadata = pq.read_metadata(readable(path))
            found = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        else:
            found = [pq.read_metadata(readable(path / part.name)).num_rows for part in manifest.parts]
    except (OSError, UnicodeDecodeError, pa.ArrowException):
        return False
    return found == [part.rows for part in manifest.parts]


def write_parquet(source: Place, path: Place) -> None:
    """Write a finished set as one Parquet file, a row group for each part."""
    import pyarrow.parquet as pq

    manifest, pieces = pieces_of(source)
    schema = schema_of(manifest, manifest.to_json())
    with (
        atomic_file(path) as file,
        pq.ParquetWriter(file, schema, **writer_options(manifest)) as writer,
    ):
        for piece in pieces:
            table = piece.read()
            writer.write_table(table, row_group_size=max(len(table), 1))


def file_manifest(path: Place) -> Manifest:
    """The manifest in a single Parquet file.

    Raises
    ------
    StoreError
        If the file is torn, no Parquet, or not ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(readable(path)).metadata or {}
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise StoreError(f"{path} is no readable Parquet file: {error}", "Choose another path.") from error
    if METADATA_KEY not in metadata:
        raise StoreError(f"{path} is a Parquet file that embedsvc did not write", "Choose another path.")
    return Manifest.from_json(metadata[METADATA_KEY], origin=str(path))


def read_manifest(path: Place) -> Manifest:
    """The manifest in a file of JSON.

    Raises
    ------
    StoreError
        If it cannot be read, or is torn or foreign.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}", "Check its permissions.") from error
    return Manifest.from_json(text, origin=str(path))


def partial_folder(path: Place) -> Place:
    """The folder in which a single file is made."""
    return path.with_name(f".{path.name}.partial")
