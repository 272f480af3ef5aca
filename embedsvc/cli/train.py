"""``embedsvc train``."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from embedsvc.cli.invocation import program
from embedsvc.cli.parameters import Named
from embedsvc.cli.reading import read_options, reading_options
from embedsvc.cli.tables import print_pairs, print_table, print_text

if TYPE_CHECKING:
    from embedsvc.training import Trained

__all__ = ["train"]


@click.command(
    epilog="Example:  embedsvc train reviews.csv --text-column text --label-column stars --encoder minilm-l6 -o model/"
)
@click.argument("sources", type=click.Path(), nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(),
    required=True,
    metavar="FOLDER",
    help="A new folder, or that of a run to go on with.",
)
@click.option(
    "--encoder",
    type=Named("embedsvc.catalog:MODELS", files=True),
    default="minilm-l6",
    show_default=True,
    metavar="URI",
    help="A name (see `embedsvc models`), a Hugging Face folder, or scheme:location.",
)
@click.option("--dropout", type=float, default=0.1, show_default=True, metavar="RATE", help="Of the head.")
@click.option("--freeze-encoder", is_flag=True, help="Train the head alone, on vectors that are computed once.")
@click.option(
    "--pooler",
    type=click.Choice(["auto", "train", "freeze"]),
    default="auto",
    show_default=True,
    help="With --freeze-encoder; auto trains a pooler that is untrained.",
)
@reading_options
@click.option(
    "--task",
    type=click.Choice(["auto", "binary", "multi-class", "multi-label"]),
    default="auto",
    show_default=True,
    help="auto: from the labels.",
)
@click.option(
    "--label-separator", default="|", show_default=True, metavar="TEXT", help="Between the labels of one text."
)
@click.option(
    "--validation",
    "validation_files",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help="Decides when to stop, instead of a split.",
)
@click.option(
    "--test",
    "test_files",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help="Is scored at the end, instead of a split.",
)
@click.option(
    "--validation-share", type=float, default=0.1, show_default=True, metavar="X", help="Of the texts, split off."
)
@click.option("--test-share", type=float, default=0.2, show_default=True, metavar="X", help="Of the texts, split off.")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most. [default: 3; 200 with --freeze-encoder, 30 for recurrent:]",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    metavar="N",
    help="Epochs without a lower validation loss before it stops. [default: 2; 10 with --freeze-encoder]",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, metavar="N", help="Texts a step."
)
@click.option(
    "--learning-rate",
    type=float,
    metavar="X",
    help="Its peak. [default: 5e-5; 1e-3 with --freeze-encoder, 2e-3 for recurrent:]",
)
@click.option("--warmup", type=float, default=0.1, show_default=True, metavar="X", help="Share of the steps.")
@click.option(
    "--decay",
    type=click.Choice(["linear", "cosine", "none"]),
    default="linear",
    show_default=True,
    help="Of the learning rate, after the warmup.",
)
@click.option("--weight-decay", type=float, default=0.01, show_default=True, metavar="X", help="Of AdamW.")
@click.option(
    "--class-weights",
    type=click.Choice(["none", "balanced"]),
    default="none",
    show_default=True,
    help="balanced: rare classes weigh more; probabilities then no longer follow the frequencies.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest text. [default: the model's limit]"
)
@click.option(
    "--token-budget",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    metavar="N",
    help="Tokens at once; a batch with more is run in pieces.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="auto: bfloat16 products on GPUs that have them.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of splits, order and masks."
)
@click.option(
    "--checkpoint-seconds", type=float, default=120.0, show_default=True, metavar="S", help="What a kill can cost."
)
@click.option("--overwrite", is_flag=True, help="Replace a model trained under other settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(sources: tuple[str, ...], out: str, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Train a classifier with a dropout head: encoder → dropout → logits.

    SOURCES are labelled texts: files, globs, folders, - or a named data set (data:vader-tweets). Two labels make it
    binary, more multi-class, labels joined by | multi-label. A run that was stopped goes on where it was when the same
    command is given again, and ends with the same weights.
    """
    from embedsvc.cli import training_progress
    from embedsvc.training import TrainingSettings, train
    from embedsvc.types import named_fields

    shares = {"validation": options["validation_share"], "test": options["test_share"]}
    with training_progress.watch(quiet=options["quiet"]) as watch:
        try:
            trained = train(
                sources,
                out,
                settings=TrainingSettings(**named_fields(TrainingSettings, options) | shares),
                read_options=read_options(options),
                validation=options["validation_files"],
                test=options["test_files"],
                overwrite=options["overwrite"],
                watch=watch,
            )
        except KeyboardInterrupt:
            click.echo("Interrupted. Give the same command again to go on from the last checkpoint.", err=True)
            raise click.exceptions.Exit(130) from None
    if options["as_json"]:
        told = {"path": str(trained.path), "new_steps": trained.new_steps}
        told |= {"texts_per_second": round(trained.texts_per_second, 1)}
        click.echo(json.dumps(told | dict(trained.record), indent=2, ensure_ascii=False))
    else:
        print_trained(trained)


def print_trained(trained: Trained) -> None:
    """The final table, and what to try next."""
    from embedsvc.training.card import SCORES

    record = trained.record
    scores = record["scores"]
    print_pairs(
        [
            ("task", record["task_reason"]),
            ("split", ", ".join(f"{record['split'][part]:,} {part}" for part in ("train", "validation", "test"))),
            ("epochs", f"{len(record['history'])}, the best is {record['best_epoch'] + 1}"),
            (
                "steps",
                f"{record['steps']:,} ({trained.new_steps:,} new)",
            ),
            *([("speed", f"{trained.texts_per_second:,.0f} texts/s")] if trained.new_steps else []),
            ("model", ", ".join(str(trained.path / place) for place in record["exports"].values())),
            ("split file", str(trained.path / record["split"]["file"])),
        ]
    )
    click.echo()
    columns = {
        "test": scores["test"],
        "by frequency alone": scores["test_by_frequency"],
        "validation": scores["validation"],
    }
    print_table(
        ("score", *columns),
        [(heading, *(f"{found[key]:.3f}" for found in columns.values())) for key, heading in SCORES.items()]
        + [
            (f"F1 of {name}", *(f"{found['f1'][name]:.3f}" for found in columns.values())) for name in record["classes"]
        ],
    )
    print_text(f"\nCalibration error: {record['calibration_error']}.")
    path = shlex.quote(str(trained.path))
    click.echo(
        f"\nTry next:\n  {program()} extract texts.txt --model {path} --modes inference,training,head -o out.parquet"
    )
