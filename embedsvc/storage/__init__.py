"""Where files are kept, and how one appears there whole or not at all."""

from embedsvc.storage.disk import atomic_file, disk_errors, sync_folder

__all__ = ["atomic_file", "disk_errors", "sync_folder"]
