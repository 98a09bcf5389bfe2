"""The layout of the package: nothing imports upwards, and no module imports itself by way of others."""

from __future__ import annotations

import ast
from pathlib import Path

import async_peewee

PACKAGE = Path(async_peewee.__file__).parent

# From the bottom to the top. What is not named here is a door: it may import everything.
LAYERS = ["_errors", "_writes", "_settings", "_eventloops", "_pool", "_drivers", "_bridge", "_orm"]

# These stand side by side, and do not know each other.
STRANGERS = {"_drivers", "_bridge"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, also where only a type checker sees it."""
    folder = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
            module = ".".join(part for part in base if part)
            inner = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
            found |= inner & MODULES or {module}
    return found & MODULES


FILES = {name_of(path): path for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]}
MODULES = set(FILES)
IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def layer_of(module: str) -> int:
    folder = module.partition(".")[0]
    return LAYERS.index(folder) if folder in LAYERS else len(LAYERS)


def runs_up(module: str, imported: str) -> bool:
    folders = {module.partition(".")[0], imported.partition(".")[0]}
    is_for_checkers = imported.startswith("_typing")
    return not is_for_checkers and (layer_of(imported) > layer_of(module) or folders == STRANGERS)


def test_no_import_runs_up() -> None:
    arrows = [f"{name} -> {other}" for name in IMPORTS for other in IMPORTS[name] if runs_up(name, other)]
    arrows = [arrow for arrow in arrows if not arrow.startswith("_typing")]
    assert sorted(arrows) == []
    assert runs_up("_pool.pool", "_bridge.calls"), "an arrow that runs up would be seen"
    assert runs_up("_drivers.base", "_bridge.places"), "one between strangers, too"


def test_the_core_knows_no_names_of_peewee_but_its_errors() -> None:
    """The pool takes callables: no module of it imports Peewee itself, except for what it raises."""
    assert "_orm.models" in MODULES, "the files are found"
    for name, path in FILES.items():
        if name.startswith("_pool.") and name != "_pool.per_loop":
            assert "import peewee" not in path.read_text(encoding="utf-8"), name


def test_what_stands_for_types_at_run_time_imports_nothing_of_the_package() -> None:
    """So every module may import it: those above do not look at _typing."""
    beside_a_stub = [path for path in PACKAGE.glob("_typing/*.py") if path.with_suffix(".pyi").exists()]
    assert beside_a_stub
    assert {path.name: imports_of(path) for path in beside_a_stub} == {
        path.name: set() for path in beside_a_stub
    }


def circles() -> list[str]:
    """Return the ways from a module back to itself."""
    found: list[str] = []
    finished: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            found.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in finished:
            for other in sorted(IMPORTS[module]):
                if not other.startswith("_typing"):
                    visit(other, [*way, module])
            finished.add(module)

    for module in sorted(MODULES):
        if not module.startswith("_typing"):
            visit(module, [])
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles() == []


def test_the_package_has_few_entries() -> None:
    """Folders in the order of a call: a newcomer reads the names of the top level at one glance."""
    entries = {path.name for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert len(entries) <= 20
