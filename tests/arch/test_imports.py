"""The import rules of docs/architecture.md: who may know whom."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.arch.imports import ROOT, Import, files, imports

STDLIB = frozenset(sys.stdlib_module_names)
IMPURE = (
    "asyncio",
    "socket",
    "ssl",
    "select",
    "selectors",
    "threading",
    "time",
    "os",
    "random",
    "secrets",
    "subprocess",
)
PRIMITIVES = "agents.ike.crypto.primitives"
"""Ciphers and MACs that IKE and userspace ESP share; nothing else of ``ike`` is ESP's business."""
SEAM = ("agents.dataplane.base", "agents.dataplane.plain", "agents.dataplane.shaping", "agents.contract")
CONSOLE_ORDER = ("lib", "accounts", "gateways", "pki", "vpn", "rollout", "monitor", "api", "ui")


def outside(package: str, *allowed: str) -> list[str]:
    """Return the imports of ``package`` that are neither stdlib nor in ``allowed``."""
    return [
        str(each)
        for each in imports(package)
        if each.name.split(".")[0] not in STDLIB and not each.within(*allowed)
    ]  # fmt: skip


def impure(package: str) -> list[str]:
    """Return the imports of clocks, sockets, threads and randomness."""
    return [str(each) for each in imports(package) if each.within(*IMPURE)]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("agents.contract", ["agents.contract"]),
        ("agents.ike.wire", ["agents.ike.wire", "agents.ike.errors", "agents.contract.algorithms"]),
        ("agents.ike", ["agents.ike", "agents.contract", "agents.dataplane.base", "cryptography"]),
        ("agents.dataplane.base", ["agents.contract"]),
        ("agents.dataplane.shaping", []),
        ("agents.dataplane.userspace", ["agents.dataplane.userspace", *SEAM, PRIMITIVES, "cryptography", "numpy"]),
        ("agents.dataplane.kernel", ["agents.dataplane.kernel", *SEAM, "agents.dataplane.outer", "pyroute2"]),
        ("agents.runtime", ["agents.runtime", "agents.contract", "agents.__version__"]),
        ("agents.pki", ["agents.pki", "agents.contract", "agents.runtime", "cryptography"]),
        ("agents.iked", ["agents", "pyroute2", "aiohttp", "yarl", "cryptography"]),
        ("agents.espd", ["agents", "pyroute2"]),
        ("agents.cli", ["agents", "aiohttp", "cryptography"]),
    ],
)  # fmt: skip
def test_package_imports_only_what_it_may(package: str, allowed: list[str]) -> None:
    assert list(files(package)), f"{package} is gone: the rule is stale"
    assert outside(package, *allowed) == []


@pytest.mark.parametrize(
    "package",
    [
        "agents.contract",
        "agents.ike",
        "agents.dataplane.base",
        "agents.dataplane.shaping",
        "agents.dataplane.userspace",
    ],
)
def test_pure_package_has_no_clock_socket_or_randomness(package: str) -> None:
    assert impure(package) == []


@pytest.mark.parametrize("process", ["iked", "espd", "agentd"])
def test_processes_of_the_agent_do_not_import_each_other(process: str) -> None:
    others = [f"agents.{other}" for other in ("iked", "espd", "agentd") if other != process]
    assert [str(each) for each in imports(f"agents.{process}") if each.within(*others)] == []


@pytest.mark.parametrize(("version", "other"), [("v1", "v2"), ("v2", "v1")])
def test_ike_versions_do_not_import_each_other(version: str, other: str) -> None:
    names = (f"agents.ike.{other}", "agents.ike.engine")
    wire = ("agents.ike.wire.isakmp",) if version == "v2" else ()
    assert [str(each) for each in imports(f"agents.ike.{version}") if each.within(*names, *wire)] == []


def test_agent_knows_no_console_and_no_django() -> None:
    assert [str(each) for each in imports("agents") if each.within("vpnconsole", "django", "celery", "kombu")] == []


def test_console_knows_only_the_contract_of_the_agent() -> None:
    wrong = [
        str(each) for each in imports("vpnconsole") if each.within("agents") and not each.within("agents.contract")
    ]
    assert wrong == []
    assert [str(each) for each in imports("vpnconsole") if each.within("pyroute2", "deploy", "tests")] == []


@pytest.mark.parametrize("app", CONSOLE_ORDER)
def test_console_app_imports_downwards_only(app: str) -> None:
    # `api` and `ui` stand side by side at the top.
    above = CONSOLE_ORDER[CONSOLE_ORDER.index(app) + 1 :]
    if app == "ui":
        above = ("api",)
    forbidden = tuple(f"vpnconsole.{other}" for other in above)
    assert [str(each) for each in imports(f"vpnconsole.{app}") if each.within(*forbidden)] == []


def test_only_env_reads_the_environment_of_the_console() -> None:
    readers = []
    for path in files("vpnconsole"):
        if path.name != "env.py" and "os.environ" in path.read_text(encoding="utf-8"):
            readers.append(str(path.relative_to(ROOT)))
    # The two doors and the process table hand the environment on; they do not read settings from it.
    assert [
        name
        for name in readers
        if name not in {"vpnconsole/asgi.py", "vpnconsole/celery.py", "vpnconsole/lib/processes.py"}
    ] == []


def test_no_relative_imports() -> None:
    assert [str(each) for each in imports("agents", "vpnconsole", "deploy") if each.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("packages", "blocked"),
    [(("agents",), ("django", "celery", "kombu", "redis", "httpx")), (("vpnconsole",), ("pyroute2", "aiohttp"))],
)
def test_one_half_loads_without_the_other_halfs_packages(packages: tuple[str, ...], blocked: tuple[str, ...]) -> None:
    """Load every module in a fresh interpreter in which the other half's packages cannot be imported."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files(*packages)
        if path.name not in {"__main__.py", "__init__.py"}
    ]
    program = f"""
import importlib, importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " belongs to the other half")
sys.meta_path.insert(0, Block())
if {packages!r} == ("vpnconsole",):
    import os; os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vpnconsole.settings")
    import django; django.setup()
    import vpnconsole.env; vpnconsole.env.require_set_up = lambda: None  # the web's door opens only after set-up
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rule_sees_a_forbidden_import() -> None:
    """The measure itself can fail."""
    here = next(files("tests.arch.test_imports"))
    assert Import(here, 1, "django.db").within("django")
    assert not Import(here, 1, "djangoish").within("django")
