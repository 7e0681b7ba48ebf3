"""Hash of the code that a result passes through: the modules that are imported to compute it, and no others.

A hash of chosen files has to be kept in step by hand, and was not: the code that computes the errors was left out, and
a comment in a page counted. Here the import statements say what counts, and of each module its syntax tree does.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("mekrr", "mekrr_comparison")


@cache
def source_hash(modules: tuple[str, ...]) -> str:
    """SHA-256 of these modules and of all they import from mekrr and from this package, comments and docstrings aside.

    Args:
        modules: where the computation begins. One of neither package, a user's own method, counts by itself as well.
    """
    names = {*PACKAGES, *(name.partition(".")[0] for name in modules)}
    return digest(modules, {name: _place(name) for name in names})


def digest(modules: Iterable[str], places: Mapping[str, Path]) -> str:
    """The same of packages that lie elsewhere.

    Args:
        modules: where to begin.
        places: folder of each package by its name, or file of a single module; what is imported from others is left to
            the versions that a result records.

    Raises:
        ValueError: when one of `modules` is not there, for the hash would then be of too little.
    """
    found = hashlib.sha256()
    for name, path in sorted(imported(modules, places).items()):
        found.update(f"{name} {_meaning(path.read_bytes())}\n".encode())
    return found.hexdigest()


def imported(modules: Iterable[str], places: Mapping[str, Path]) -> dict[str, Path]:
    """Every module of `places` that is imported by these, sooner or later, with its file; themselves included.

    Imports within functions count, those under TYPE_CHECKING do not: they are never carried out.

    Raises:
        ValueError: see `digest`.
    """
    waiting = list(modules)
    for name in waiting:
        if _file(name, places) is None:
            raise ValueError(f"{name}: no source file found to hash; known are {', '.join(sorted(places))}")
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        path = _file(name, places)
        if path is None or name in found:
            continue
        found[name] = path
        parent = name.rpartition(".")[0]  # Python runs the __init__ of every package on the way
        waiting += [parent] * bool(parent)
        waiting += _imports(path.read_bytes(), name if path.name == "__init__.py" else parent)
    return found


def _place(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"{name}: cannot be found, so the code behind a result cannot be told")
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


def _file(module: str, places: Mapping[str, Path]) -> Path | None:
    """Of a module; None for a name within a module, and for a module of another package."""
    top, _, rest = module.partition(".")
    place = places.get(top)
    if place is None or place.is_file():
        return None if rest else place
    path = place.joinpath(*rest.split(".")) if rest else place
    choices = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((choice for choice in choices if choice.is_file()), None)


@cache
def _imports(content: bytes, package: str) -> tuple[str, ...]:
    """Names that may be modules: `from a import b` imports a, and a.b where that is one."""
    found: list[str] = []
    for node in _carried_out(ast.parse(content)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found += (module, *(f"{module}.{alias.name}" for alias in node.names))
    return tuple(found)


def _carried_out(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for node in child.orelse:
                yield from _carried_out(node)
        else:
            yield from _carried_out(child)


@cache
def _meaning(content: bytes) -> str:
    """SHA-256 of the syntax tree without comments, layout and docstrings, those of attributes included."""
    return hashlib.sha256(ast.dump(_WithoutWords().visit(ast.parse(content))).encode()).hexdigest()


class _WithoutWords(ast.NodeTransformer):
    """Drops statements that are nothing but a string."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)
