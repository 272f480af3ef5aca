"""Where files are kept: on a disk or in an object store, and how one appears there whole or not at all.

| question | module |
| --- | --- |
| what is a place, and what is done alike with paths and addresses? | `places.py` |
| how does a file on a disk appear whole, and what if the disk refuses? | `disk.py` |
| how are objects read and put, and what if the store refuses? | `objects.py` |
| who may write in a folder? | `locks.py` |
"""

from embedsvc.storage.disk import disk_errors, sync_folder
from embedsvc.storage.locks import is_lock, locked
from embedsvc.storage.objects import ObjectPath, is_address
from embedsvc.storage.places import (
    Place,
    atomic_file,
    entries,
    folder_bytes,
    open_raw,
    place,
    put_into,
    readable,
    remove_folder,
    size_of,
    staging,
)

__all__ = [
    "ObjectPath",
    "Place",
    "atomic_file",
    "disk_errors",
    "entries",
    "folder_bytes",
    "is_address",
    "is_lock",
    "locked",
    "open_raw",
    "place",
    "put_into",
    "readable",
    "remove_folder",
    "size_of",
    "staging",
    "sync_folder",
]
