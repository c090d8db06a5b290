"""An S3 server on loopback, over real HTTP, in a thread of its own; and the environment that leads to it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "fusery-tests"
SECRET_KEY = "a-secret-of-the-tests"


@contextmanager
def s3_server() -> Iterator[str]:
    """Its address, in the environment as AWS_ENDPOINT_URL while it runs; it has one bucket, BUCKET."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Otherwise a missing key is looked for in the network.
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            environment.setenv(name, value)
        forget_connections()
        # What a server of this process has kept, the next one has too.
        fsspec.filesystem("s3", use_listings_cache=False).makedirs(BUCKET, exist_ok=True)
        try:
            yield address
        finally:
            forget_connections()
            server.stop()


def forget_connections() -> None:
    """fsspec keeps one file system for a set of arguments, and the environment is none of them."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def new_store_url() -> str:
    """A folder of the bucket that nobody has used."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"
