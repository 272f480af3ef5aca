"""``embedsvc serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from embedsvc.cli.loading import load_options, loading_options

__all__ = ["serve"]


@click.command(epilog="Example:  embedsvc serve --model minilm-l6 --set reviews=reviews.parquet --port 8080")
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    default=("minilm-l6-sentiment",),
    show_default=True,
    metavar="[NAME=]URI",
    help="What to serve, under a name; the first is the default. Repeatable.",
)
@click.option("--set", "sets", multiple=True, metavar="[NAME=]PATH", help="A stored set to show. Repeatable.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--tap", metavar="NAME", help="Default tap. [pre_dropout if the head is trained, else mean]")
@click.option(
    "--on-long",
    type=click.Choice(["truncate", "fail"]),
    default="truncate",
    show_default=True,
    help="For long texts of requests that do not say.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest text. [default: the model's limit]"
)
@click.option(
    "--max-texts", type=click.IntRange(min=1), default=2048, show_default=True, metavar="N", help="A request."
)
@click.option(
    "--max-request-tokens",
    type=click.IntRange(min=1),
    default=131_072,
    show_default=True,
    metavar="N",
    help="A request.",
)
@click.option(
    "--max-body",
    type=click.IntRange(min=1),
    default=8 << 20,
    show_default=True,
    metavar="N",
    help="Bytes of a request.",
)
@click.option(
    "--queue-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=0.3,
    show_default=True,
    metavar="S",
    help="Longest wait before a newcomer's turn; beyond, requests get 429.",
)
@click.option(
    "--token-budget", type=click.IntRange(min=1), default=1024, show_default=True, metavar="N", help="Tokens a batch."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Batches at once. [default: the processors]")
@click.option(
    "--api-keys", metavar="FILE", help="Lines name:sha256 of the keys that open it. [or EMBEDSVC_API_KEYS, by commas]"
)
@click.option("--new-key", metavar="NAME", help="Print a new key and the line to keep of it, and stop.")
@click.option("--allow-public", is_flag=True, help="Bind to a public address without keys.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Host name to answer to, besides localhost.")
@click.option(
    "--tls-cert", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="PEM chain: serve HTTPS."
)
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="PEM private key.")
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="S",
    help="For work under way after SIGTERM.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="Of the lines on stderr; auto: text on a terminal, JSON elsewhere.",
)
@loading_options
def serve(models: tuple[str, ...], sets: tuple[str, ...], new_key: str | None, **options: Any) -> None:  # noqa: ANN401
    """Serve embeddings and their dropout variants over HTTP.

    Clients of OpenAI and of text-embeddings-inference work by changing their base URL. GET /docs describes the rest,
    and / is a page to try it on.
    """
    from embedsvc.service import keys

    if new_key is not None:
        key, line = keys.new_key(new_key)
        click.echo(f"key   {key}\nline  {line}")
        click.echo(
            "Give the key to whoever asks, and the line to --api-keys FILE; the key is not shown again.", err=True
        )
        return
    from embedsvc.batching import OnLong
    from embedsvc.errors import MissingExtraError, SettingsError
    from embedsvc.service.logs import LogFormat
    from embedsvc.service.settings import Limits, Settings

    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise SettingsError("HTTPS needs --tls-cert and --tls-key, and one of them is missing")
    settings = Settings(
        models=_named(models, "model"),
        sets=_named(sets, "set"),
        options=load_options(options),
        tap=options["tap"],
        on_long=OnLong(options["on_long"]),
        token_budget=options["token_budget"],
        **({"workers": options["workers"]} if options["workers"] else {}),
        limits=Limits(
            body_bytes=options["max_body"],
            texts=options["max_texts"],
            request_tokens=options["max_request_tokens"],
            max_tokens=options["max_tokens"],
            queue_seconds=options["queue_seconds"],
        ),
        keys=keys.Keys.read(options["api_keys"], os.environ.get(keys.VARIABLE, "")),
        host=options["host"],
        port=options["port"],
        allow_public=options["allow_public"],
        hosts=options["hosts"],
        drain_seconds=options["drain_seconds"],
        log_format=LogFormat(options["log_format"]),
        tls={"ssl_certfile": options["tls_cert"], "ssl_keyfile": options["tls_key"]} if options["tls_cert"] else {},
    )
    try:
        from embedsvc.service import server
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "httptools", "uvicorn", "pydantic", "starlette", "orjson"):
            raise
        raise MissingExtraError.of(error.name, "serve") from None
    server.serve(settings)


def _named(values: tuple[str, ...], kind: str) -> dict[str, str]:
    """Names and what they stand for: ``name=value``, or a value whose last part is its name."""
    from embedsvc.errors import SettingsError

    named: dict[str, str] = {}
    for value in values:
        name, equals, target = value.partition("=")
        # A path may have an equals sign in it; a name has no slash and no colon.
        if not equals or set(name) & set("/:\\"):
            target = value
            is_path = kind == "set" or "/" in value
            name = Path(value.partition(":")[2] or value).stem if is_path else value.replace(":", "-").strip("-")
        if name in named:
            raise SettingsError(f"two {kind}s are called {name!r}", f"Name them apart: --{kind} NAME={target}")
        named[name] = target
    return named
