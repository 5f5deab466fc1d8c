"""Which modules a file imports, read from its syntax tree: the measure the import rules are held against."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Import:
    """One import of one file: where it stands and the dotted name it takes."""

    path: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.name}"

    def within(self, *packages: str) -> bool:
        """Whether the name is one of ``packages`` or lies below one."""
        return any(self.name == package or self.name.startswith(package + ".") for package in packages)


def files(*packages: str) -> Iterator[Path]:
    """Yield the Python files of dotted packages or modules, migrations left out."""
    for package in packages:
        base = ROOT / package.replace(".", "/")
        if base.is_dir():
            yield from (path for path in sorted(base.rglob("*.py")) if "migrations" not in path.parts)
        elif base.with_suffix(".py").is_file():
            yield base.with_suffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    """Parse one file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(*packages: str) -> Iterator[Import]:
    """Yield every import below ``packages``; ``from a import b`` counts as ``a.b`` where that is a module of ours."""
    for path in files(*packages):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(path, node.lineno, alias.name)
            elif isinstance(node, ast.ImportFrom):
                if node.level:
                    yield Import(path, node.lineno, "." * node.level)
                    continue
                assert node.module is not None
                for alias in node.names:
                    below = f"{node.module}.{alias.name}"
                    yield Import(path, node.lineno, below if next(files(below), None) else node.module)
