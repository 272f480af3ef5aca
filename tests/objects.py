"""Real servers of S3's and Google's protocols, on the loopback, and the clouds' own clients to look into them."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest

needs_s3 = pytest.mark.skipif(
    not all(map(find_spec, ("s3fs", "moto", "flask_cors"))),
    reason='needs s3fs and moto: pip install "embedsvc[s3]" "moto[s3]" flask flask-cors',
)

needs_gs = pytest.mark.skipif(
    not all(map(find_spec, ("gcsfs", "gcp_storage_emulator"))),
    reason='needs gcsfs and a server: pip install "embedsvc[gs]" gcp-storage-emulator',
)


@dataclass
class Bucket:
    """A bucket, seen through Amazon's own client rather than ours."""

    name: str
    client: Any

    @property
    def address(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, content: str | bytes) -> None:
        self.client.put_object(
            Bucket=self.name, Key=key, Body=content.encode() if isinstance(content, str) else content
        )

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Names below a folder to what they hold."""
        folder = f"{prefix}/" if prefix else ""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=folder)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key.removeprefix(folder): self.get(key) for key in keys}

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def copy_folder(self, source: str, target: str) -> None:
        for name, content in self.objects(source).items():
            self.put(f"{target}/{name}", content)

    def remove_folder(self, prefix: str) -> None:
        for name in self.objects(prefix):
            self.client.delete_object(Bucket=self.name, Key=f"{prefix}/{name}")


def bucket_of(name: str) -> Bucket:
    """A new bucket of the server that the environment names."""
    import boto3

    bucket = Bucket(name, boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]))
    bucket.client.create_bucket(Bucket=name)
    return bucket


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """A server in a thread of this process, and the environment that leads to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        server.stop()


@dataclass
class GoogleBucket:
    """Likewise of Google's store."""

    name: str
    bucket: Any

    @property
    def address(self) -> str:
        return f"gs://{self.name}"

    def put(self, key: str, content: str | bytes) -> None:
        self.bucket.blob(key).upload_from_string(content)

    def names(self, prefix: str = "") -> list[str]:
        """Names below a folder."""
        folder = f"{prefix}/" if prefix else ""
        return [blob.name.removeprefix(folder) for blob in self.bucket.list_blobs(prefix=folder)]

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Names below a folder to what they hold."""
        folder = f"{prefix}/" if prefix else ""
        return {name: self.bucket.blob(folder + name).download_as_bytes() for name in self.names(prefix)}


def google_bucket_of(name: str) -> GoogleBucket:
    """A new bucket of the server that the environment names."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    return GoogleBucket(name, storage.Client("test", credentials=AnonymousCredentials()).create_bucket(name))


@contextmanager
def gs_server() -> Iterator[dict[str, str]]:
    """A server in a thread of this process, and the environment that leads to it, without credentials."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with create_server("127.0.0.1", port, in_memory=True):
        yield {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "FSSPEC_GS_TOKEN": "anon",
            # Its other half asks Google itself what kind of bucket this is.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
