"""The command line: verbs, each loaded only when it is called, and one place where errors become exit codes.

Knobs live in the case; the few options here choose the case, the place of results and the form of the answer.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from datahall import __version__
from datahall.base.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, DatahallError, NoPlan

VERBS: dict[str, tuple[str, str]] = {
    # verb: (module:command, one line of help)
    "plan": ("datahall.ui.plan:plan", "does it fit, which split, how long, how sure"),
    "claim": ("datahall.ui.claim:claim_command", "against which baseline a claimed percentage would hold"),
    "exchange": ("datahall.ui.exchange:exchange", "which exchange of gradients pays on a link, and below which rate"),
    "catalog": ("datahall.ui.catalog:catalog", "what the catalogue knows, with the source of each figure"),
    "cite": ("datahall.ui.cite:cite", "the formulas, their sources and where each holds"),
    "probe": ("datahall.ui.probe:probe", "measure this machine and write it as a site"),
    "prove": ("datahall.ui.prove:prove", "probe, plan, seal, run, compare, calibrate and report, in one command"),
    "gpu-check": ("datahall.ui.gpu_check:gpu_check", "measure the GPUs here, as a file that can be shared"),
    "weights": ("datahall.ui.weights:weights", "fetch a small pretrained model to fine-tune"),
    "run": ("datahall.ui.run:run", "train a case here by a given plan"),
    "generate": ("datahall.ui.generate:generate_command", "tokens for prompts, what they share kept where it pays"),
    "engines": ("datahall.ui.engines:engines", "one training on three engines, one worker against several"),
    "validate": ("datahall.ui.validate:validate", "forecasts beside published measurements, scored"),
    "report": ("datahall.ui.report:report", "write the page and the trace of a run again"),
    "data": ("datahall.ui.data:data", "cut a text into shards that a case can name"),
    "store": ("datahall.ui.store:store", "list, verify, clean, export checkpoint stores"),
    "compare": ("datahall.ui.compare:compare_log", "a training log beside the forecast of its plan"),
    "export": ("datahall.ui.export:export", "a plan as a job script, a manifest or engine flags"),
}


class LazyVerbs(click.Group):
    """A group whose commands are imported when they are called, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, summary) for verb, (_, summary) in VERBS.items()])


@click.group(cls=LazyVerbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="datahall")
def datahall() -> None:
    """Plan, run and prove large-model workloads: the forecast and the measurement side by side."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that datahall foresees become one message and their exit code."""
    try:
        status: Any = datahall.main(arguments, standalone_mode=False)
    except DatahallError as error:
        _tell(error)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _tell(error: DatahallError) -> None:
    click.echo(f"error: {error}", err=True)
    if isinstance(error, NoPlan):
        for reason, count in sorted(error.reasons.items(), key=lambda item: -item[1]):
            click.echo(f"  {count:>8,} plans: {reason}", err=True)


if __name__ == "__main__":
    main()
