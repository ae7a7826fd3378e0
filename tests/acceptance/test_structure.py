"""How the code is laid out: no import cycles, and no module over 300 lines without a reason."""

import ast
import re
from collections.abc import Iterator

from conftest import REPO
from support.source_modules import PACKAGES, source_modules

MODULES = source_modules()
FOLDERS = {module for module, path in MODULES.items() if path.name == "__init__.py" and "." in module}
MAX_LINES = 300
REASON = re.compile(r"\b(300|lines|long)\b")  # in the docstring of a longer module

Graph = dict[str, set[str]]


def imported(tree: ast.AST) -> Iterator[str]:
    """Give what a file imports at run time, in functions too; imports below `if TYPE_CHECKING` are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imported(ast.Module(node.orelse, []))
            continue
        yield from imported(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_graph() -> Graph:
    """Map each module to the modules that it imports; importing a.b.c imports a and a.b, too."""
    graph: Graph = {}
    for module, path in MODULES.items():
        parts = [name.split(".") for name in imported(ast.parse(path.read_text(encoding="utf-8")))]
        prefixes = {".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)}
        graph[module] = (prefixes & MODULES.keys()) - {module}
    return graph


def folder_of(module: str) -> str | None:
    """Give the folder that holds a module, such as pyml.training; None for a module that lies beside the folders."""
    return next((folder for folder in FOLDERS if f"{module}.".startswith(f"{folder}.")), None)


def folder_graph() -> Graph:
    """Map each folder below a package to the other folders that its modules import."""
    graph: Graph = {folder: set() for folder in FOLDERS}
    for module, targets in file_graph().items():
        folder = folder_of(module)
        if folder is not None:
            graph[folder] |= {other for target in targets if (other := folder_of(target)) not in (None, folder)}
    return graph


def package_graph() -> Graph:
    """Map each of the three packages to the others that its modules import."""
    graph: Graph = {package: set() for package in PACKAGES}
    for module, targets in file_graph().items():
        package = module.split(".")[0]
        graph[package] |= {target.split(".")[0] for target in targets} - {package}
    return graph


def find_cycle(graph: Graph) -> list[str]:
    """Give one cycle of a graph, with its first name again at its end; empty when there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            cycle = visit(target, [*path, name])
            if cycle:
                return cycle
        done.add(name)
        return []

    for name in sorted(graph):
        cycle = visit(name, [])
        if cycle:
            return cycle
    return []


def test_find_cycle_gives_the_cycle() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_in_functions_count_and_those_for_typing_do_not() -> None:
    tree = ast.parse("import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\ndef f():\n    from d import e")
    assert sorted(imported(tree)) == ["a", "c", "d.e"]


def test_files_have_no_import_cycle() -> None:
    assert " -> ".join(find_cycle(file_graph())) == ""


def test_folders_have_no_import_cycle() -> None:
    assert " -> ".join(find_cycle(folder_graph())) == ""


def test_pyml_and_pypredict_share_only_bundle() -> None:
    assert package_graph() == {"bundle": set(), "pyml": {"bundle"}, "pypredict": {"bundle"}}


def test_a_module_over_300_lines_says_why() -> None:
    db, benchmarks = REPO / "db", REPO / "benchmarks"
    paths = [*MODULES.values(), *db.glob("*.py"), *benchmarks.glob("*.py")]
    texts = {path.relative_to(REPO).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    long = {name: text for name, text in texts.items() if len(text.splitlines()) > MAX_LINES}
    silent = [name for name, text in long.items() if not REASON.search(ast.get_docstring(ast.parse(text)) or "")]
    assert sorted(silent) == []
