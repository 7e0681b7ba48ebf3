"""From dataclasses to the parameters of a command: a command names the dataclass, and gets one filled in.

Fields are options declared for Python too (`mekrr.declared`), or parameters as typer knows them.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import wraps
from typing import Annotated, Any, get_args

import typer

from mekrr.declared import KEY, Declared, declared


def with_options(without: tuple[str, ...] = (), **kinds: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameters of these names are dataclasses of options.

    Args:
        without: fields that would have no effect in this command, or that it fills in itself.
        **kinds: dataclass by the name of the parameter; its options stand where the parameter stood.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: [one for one in declared(kind) if one.name not in without] for name, kind in kinds.items()}
        typed = {name: _typed(kind, without) for name, kind in kinds.items()}

        @wraps(command)
        def called(**given: Any) -> None:
            for name, kind in kinds.items():
                given[name] = kind(**_values(options[name], given), **{one: given.pop(one) for one in typed[name]})
            command(**given)

        parameters = []
        for name, parameter in inspect.signature(command).parameters.items():
            expanded = [_parameter(one) for one in options.get(name, ())] + list(typed.get(name, {}).values())
            parameters += expanded or [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def _typed(kind: type, without: tuple[str, ...]) -> dict[str, inspect.Parameter]:
    """Fields that are annotated for typer."""
    return {
        one.name: inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if one.default is MISSING else one.default,
            annotation=one.type,
        )
        for one in fields(kind)
        if KEY not in one.metadata and one.name not in without
    }


def _parameter(one: Declared) -> inspect.Parameter:
    """What typer reads: a switch, a repeatable option, or one that is parsed by its words and type."""
    text, names = one.option.help, one.option.switch or one.option.flag
    if one.option.switch:
        default = None if one.option.words else one.default
        annotation: Any = Annotated[bool | None if one.option.words else bool, typer.Option(names, help=text)]
    elif one.option.repeatable:
        default, annotation = None, Annotated[list[str] | None, typer.Option(names, help=text)]
    else:
        default = one.default
        parse = _parser(one)
        annotation = Annotated[Any, typer.Option(names, help=text, parser=parse, metavar=_metavar(one))]
    return inspect.Parameter(_variable(one), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _values(options: list[Declared], given: dict[str, Any]) -> Mapping[str, Any]:
    """Fields of the dataclass, taken out of what the command line gave; what was not given keeps its default."""
    found = {}
    for one in options:
        value = given.pop(_variable(one))
        if one.option.repeatable:
            value = one.default if not value or value == [one.default] else tuple(value)
        found[one.name] = one.default if value is None else value
    return found


def _variable(one: Declared) -> str:
    return one.option.flag.lstrip("-").replace("-", "_")


def _parser(one: Declared) -> Callable[[Any], Any]:
    """Text to value by the field's type; what is neither a word nor of the type is refused by name."""
    kinds = get_args(one.type) or (one.type,)
    number = float if float in kinds else int if int in kinds else None

    def parse(value: Any) -> Any:
        if number is None or value in one.option.words or not isinstance(value, str):
            return value
        try:
            return number(value)
        except ValueError:
            what = "a number" if number is float else "a whole number"
            wanted = " or ".join((what, *one.option.words))
            raise typer.BadParameter(f"it takes {wanted}; received {value!r}") from None

    return parse


def _metavar(one: Declared) -> str:
    if one.option.words:
        return "|".join((*one.option.words, "NUMBER"))
    kinds = get_args(one.type) or (one.type,)
    return "FLOAT" if float in kinds else "INT" if int in kinds else "TEXT"
