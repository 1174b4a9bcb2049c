"""`leandet`: one short function for each verb; argument names equal the Python names."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from leandet.cli.compress import verify_command
from leandet.cli.data import data_app
from leandet.cli.deploy import export_command, quantize_command
from leandet.cli.make import build_command, eval_command, train_command
from leandet.cli.nets import nets_command
from leandet.cli.profile import profile_command
from leandet.cli.prune import prune_command
from leandet.cli.run import bench_command, detect_command
from leandet.cli.search import search_command
from leandet.cli.sparsify import sparsify_command
from leandet.errors import UserError, naming_extras

USER_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Labelled images and a latency budget in, an NMS-free object detector out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("build", rich_help_panel="The main job")(build_command)
app.command("detect", rich_help_panel="Use a detector")(detect_command)
app.command("eval", rich_help_panel="Use a detector")(eval_command)
app.command("bench", rich_help_panel="Use a detector")(bench_command)
app.command("train", rich_help_panel="Step by step")(train_command)
app.command("export", rich_help_panel="Step by step")(export_command)
app.command("quantize", rich_help_panel="Step by step")(quantize_command)
app.command("search", rich_help_panel="Step by step")(search_command)
app.command("sparsify", rich_help_panel="Step by step")(sparsify_command)
app.command("nets", rich_help_panel="Step by step")(nets_command)
app.command("profile", rich_help_panel="Step by step")(profile_command)
app.command("prune", rich_help_panel="Step by step")(prune_command)
app.command("verify", rich_help_panel="Step by step")(verify_command)
app.add_typer(data_app, name="data", rich_help_panel="Step by step")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"leandet {version('leandet')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Labelled images and a latency budget in, an NMS-free object detector out."""


def main() -> None:
    """Run the command line; ends the process.

    Exit codes: 0 done, 1 our fault (with a traceback to send us), 2 the person's input (one sentence on standard
    error), 130 interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what it cannot show
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does of itself
    try:
        with naming_extras():
            app()
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(USER_INPUT)
    except OSError as error:
        if error.filename is None:
            raise
        _say(f"error: {os.fsdecode(error.filename)}: {error.strerror}: check the path and its permissions.")
        sys.exit(USER_INPUT)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # how the framework answers Ctrl-C
            _say("interrupted; what was finished is kept.")
        raise


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
