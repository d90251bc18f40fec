"""The commands, and the options that come before a command."""

from __future__ import annotations

from pathlib import Path

import click

import trtlab
from trtlab.cli.bench import bench
from trtlab.cli.build import build
from trtlab.cli.doctor import doctor
from trtlab.cli.infer import infer
from trtlab.cli.inspect import inspect
from trtlab.cli.tune import tune


def _print_cmake_dir(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(Path(trtlab.__file__).parent / "lib" / "cmake" / "trtlab")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(trtlab.__version__, prog_name="trtlab", message="%(prog)s %(version)s")
@click.option(
    "--cmake-dir",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_cmake_dir,
    help="Print the folder to give to CMake as trtlab_DIR, and exit.",
)
@click.option("--debug", is_flag=True, help="Show the Python traceback of an error.")
@click.pass_obj
def application(options: dict[str, bool], debug: bool) -> None:
    """Run deep-learning models: see what is installed, build, look at a model, ask it, put it under load, tune it."""
    options["debug"] = debug


for _command in (doctor, build, inspect, infer, bench, tune):
    application.add_command(_command)
