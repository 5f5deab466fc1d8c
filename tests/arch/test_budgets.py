"""Size and shape: the tails that make code hard to live in, and the few places a broad except may stand."""

from __future__ import annotations

import ast
import re

from tests.arch.imports import ROOT, files, tree

CODE = ("agents", "vpnconsole", "deploy")
FUNCTION_LINES, FUNCTION_P95 = 80, 45
FILE_LINES, FILE_P95 = 700, 450

LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}

BROAD_EXCEPTS: dict[str, str] = {
    "agents/ike/hub.py": "the receive funnel: a bug becomes an event, never a dead daemon",
    "agents/runtime/rpc.py": "handler dispatch: the caller gets code `internal`, the log the traceback",
    "agents/agentd/reconciler.py": "the reconcile loop: a pass returns status, not errors",
    "vpnconsole/lib/tasks.py": "the task base: counts and logs the unexpected before it goes on",
}


def p95(sizes: list[int]) -> int:
    return sorted(sizes)[int(len(sizes) * 0.95)]


def test_functions_are_short() -> None:
    sizes = []
    for path in files(*CODE):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                name = f"{path.relative_to(ROOT)}:{node.name}"
                sizes.append(lines)
                assert lines <= FUNCTION_LINES or name in LONG_FUNCTIONS, f"{name} has {lines} lines"
    assert p95(sizes) <= FUNCTION_P95


def test_files_are_short() -> None:
    sizes = []
    for path in files(*CODE):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        name = str(path.relative_to(ROOT))
        sizes.append(lines)
        assert lines <= FILE_LINES or name in LONG_FILES, f"{name} has {lines} lines"
    assert p95(sizes) <= FILE_P95


def test_broad_excepts_stand_only_in_the_funnels() -> None:
    found = set()
    for path in files(*CODE):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                names = (
                    {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {"bare"}
                )
                if names & {"Exception", "BaseException", "bare"}:
                    found.add(str(path.relative_to(ROOT)))
    assert found <= set(BROAD_EXCEPTS), f"broad except outside the funnels: {sorted(found - set(BROAD_EXCEPTS))}"


def test_public_functions_of_the_seams_are_documented() -> None:
    missing = []
    for path in files("agents.contract", "agents.ike", "agents.dataplane", "agents.runtime"):
        for node in tree(path).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if not node.name.startswith("_") and ast.get_docstring(node) is None:
                missing.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert missing == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in files(*CODE)
        if ast.get_docstring(tree(path)) is None and path.read_text(encoding="utf-8").strip()
    ]
    assert silent == []


def test_repository_names_no_foreign_host_and_no_machine_path() -> None:
    """Lock files, templates and code name no package registry, no CDN and no path of a developer's machine."""
    hosts = re.compile(r"pypi\.org|pythonhosted|npmjs|jsdelivr|unpkg|cdnjs|googleapis|gstatic|registry\.|/root/\.pyenv")
    wrong = []
    for base in ("agents", "vpnconsole", "deploy", "requirements", "static", "docs", "."):
        pattern = "*" if base == "." else "**/*"
        for path in (ROOT / base).glob(pattern):
            ours = path.is_file() and "vendor" not in path.parts and path.suffix in _TEXT
            if ours and hosts.search(path.read_text(encoding="utf-8", errors="replace")):
                wrong.append(str(path.relative_to(ROOT)))
    assert sorted(set(wrong)) == []


_TEXT = {".py", ".txt", ".json", ".toml", ".md", ".html", ".css", ".js", ".mjs", ".sh", ".cfg", ".conf", ".yml", ".svg"}
