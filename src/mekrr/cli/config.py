"""Configurations of a fit: a YAML file of the options by their names on the command line, read and written alike."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import typer

from mekrr.errors import DataError
from mekrr.files import atomic_path

NOT_KEPT = {"config", "json", "log", "dry_run", "help"}
"""Parameters that say nothing of the fit itself."""
SUFFIX = ".fit.yaml"
HEAD = "# A fit of mekrr; again with: mekrr fit --config {name}\n# Paths are as they were given, in {folder}\n"


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take what the file says for what the command line leaves out: the callback of --config.

    Raises:
        DataError: when the file is none of options, or names one that there is not.
        FileNotFoundError: when there is none.
    """
    if path is None:
        return None
    try:
        found = msgspec.yaml.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: no YAML ({error}); mekrr fit writes such a file beside each model") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: it must hold options as `name: value`, e.g. `prior: backbone`")
    names = _names(context)
    unknown = [str(key) for key in found if key not in names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
        raise DataError(f"{path}: {unknown[0]!r} is no option of a fit{hint}")
    context.default_map = {
        str(names[key].name): _as_given(names[key], value)
        for key, value in found.items()
        if value is not None and not _is_auto(key, value)
    }
    return path


def _names(context: typer.Context) -> dict[str, Any]:
    """Parameters by their names in the file: as on the command line, without dashes before."""
    return {_name(one): one for one in context.command.params if one.name not in NOT_KEPT}


def _name(parameter: Any) -> str:
    """Its longest flag without dashes; of an argument, its own name."""
    flags = [flag for flag in parameter.opts if flag.startswith("--")]
    return str(max(flags, key=len).lstrip("-") if flags else parameter.name)


def _is_auto(key: str, value: Any) -> bool:
    """Whether it stands for a switch that is neither on nor off."""
    return key == "forces" and value == "auto"


def _as_given(parameter: Any, value: Any) -> Any:
    """As the command line would have it: text, whose type the option knows, a list of such, or a truth value."""
    if parameter.nargs == -1 or getattr(parameter, "multiple", False):
        return [str(one) for one in (value if isinstance(value, list) else [value])]
    return value if isinstance(value, bool) else str(value)


def configuration(context: typer.Context) -> dict[str, Any]:
    """Every option of this fit with its value, given or not."""
    found: dict[str, Any] = {}
    for one in context.command.params:
        value = context.params.get(str(one.name))
        if one.name in NOT_KEPT or value is None or value == [] or _was_found(context, str(one.name)):
            continue
        found[_name(one)] = _plain(value)
    return found


def _was_found(context: typer.Context, name: str) -> bool:
    """Whether the value depends on what else the machine does."""
    return name == "threads" and _source(context, name) == "DEFAULT"


def _source(context: typer.Context, name: str) -> str:
    source = context.get_parameter_source(name)
    return "" if source is None else source.name


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def config_path(output: Path) -> Path:
    """Where the configuration of a model is kept: beside it."""
    stem = output.name if not output.suffix else output.name.removesuffix(output.suffix)
    return output.with_name(stem + SUFFIX)


def require_own_config(context: typer.Context, output: Path, config: Path | None) -> None:
    """Refuse to write other options over the configuration that was read.

    Raises:
        ValueError: saying which they are.
    """
    if config is None or not _is_same(config_path(output), config):
        return
    given = [one for one in context.command.params if _source(context, str(one.name)) == "COMMANDLINE"]
    names = [_name(one) for one in given if one.name not in NOT_KEPT]
    if names:
        raise ValueError(
            f"{config} belongs to {output}, and {', '.join('--' + name for name in names)} would change it; give "
            "another output, or write it into the file"
        )


def write_config(context: typer.Context, output: Path, config: Path | None, remarks: Iterable[str]) -> Path:
    """Write the configuration beside the model, unless it was read from there; return where it is.

    Raises:
        OSError: when it cannot be written.
    """
    path = config_path(output)
    if config is not None and _is_same(path, config):
        return path
    head = HEAD.format(name=path, folder=Path.cwd()) + "".join(f"# {remark}\n" for remark in remarks)
    with atomic_path(path) as temporary:
        temporary.write_bytes(head.encode() + msgspec.yaml.encode(configuration(context)))
    return path


def _is_same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and os.path.samefile(a, b)
