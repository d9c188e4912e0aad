"""The project's own rules: what may be named where, what the locks hold, what the wheel carries."""

import ast
import asyncio
import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = {name: ROOT / ".ci" / "lock" / f"{name}.txt" for name in ("runtime", "dev")}
PIN = re.compile(r"^([a-z0-9][a-z0-9.-]*)==(\S+)(?: ; .+?)?((?: --hash=sha256:[0-9a-f]{64})+)$")

THE_DOOR = "adapters/_litellm.py"
ENVIRONMENT_READERS = {"adapters/config.py", "orchestrator/config.py", THE_DOOR}
CLOCK = "orchestrator/clock.py"


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the two packages, as its path in the project and its syntax tree."""
    for package in ("adapters", "orchestrator"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def names_used(tree: ast.Module) -> Iterator[str]:
    """Everything a module imports or reaches for, dotted: `os.environ`, `asyncio.sleep`, `time`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(module=str(module), names=aliases):
                yield module
                yield from (f"{module}.{alias.name}" for alias in aliases)
            case ast.Attribute():
                yield ast.unparse(node)
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if ast.unparse(
                func
            ).rpartition(".")[2] in {"__import__", "import_module"}:
                yield name
            case ast.Call(func=func):
                yield f"{ast.unparse(func)}()"


def violations(forbidden: str, allowed: set[str] | frozenset[str], within: str = "") -> list[str]:
    """Where a name that matches `forbidden` is used outside of the files it belongs to."""
    pattern = re.compile(forbidden)
    return sorted(
        {
            f"{path}: {name}"
            for path, tree in sources()
            if path.startswith(within) and path not in allowed
            for name in names_used(tree)
            if pattern.fullmatch(name)
        }
    )


def test_the_search_for_names_sees_every_way_to_reach_them() -> None:
    """Imports, attributes, and imports by text are all seen, so the rules below can fail."""
    tree = ast.parse(
        "import os\nfrom time import monotonic\nos.environ['X']\nimport_module('litellm')\n"
        "async def f():\n    import litellm.utils\n    await asyncio.sleep(1)\n"
    )

    assert {
        "os.environ",
        "time",
        "time.monotonic",
        "litellm",
        "litellm.utils",
        "asyncio.sleep",
    } <= set(names_used(tree))


def test_only_the_door_names_litellm() -> None:
    """litellm has one door, so that its quirks are mended in one place."""
    assert violations(r"litellm(\..*)?", {THE_DOOR}) == []


def test_the_environment_is_read_in_three_places() -> None:
    """A setting that could come from anywhere cannot be explained to anyone."""
    assert violations(r"os\.(environb?|getenv|putenv)(\..*)?", ENVIRONMENT_READERS) == []


def test_time_and_chance_come_from_the_clock() -> None:
    """What depends on time or chance can be tested because both can be replaced."""
    forbidden = (
        r"time(\..*)?|asyncio\.sleep|(datetime|date)\.(now|utcnow|today)"
        r"|random\.(?!Random$).*"  # `random.Random` is the type of what the clock's seed makes
    )
    simulator = {path for path, _ in sources() if path.startswith("orchestrator/simulator/")}

    assert violations(forbidden, {CLOCK} | simulator, within="orchestrator/") == []


def test_importing_the_packages_imports_no_litellm() -> None:
    """litellm takes seconds to import; it is loaded at the first real call and not before."""
    script = "import sys, adapters, orchestrator; print('litellm' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "False"


def test_every_module_says_what_it_is_for() -> None:
    """A newcomer reads the first line of a file before any other."""
    silent = [path for path, tree in sources() if tree.body and not ast.get_docstring(tree)]

    assert silent == []


def test_functions_stay_small() -> None:
    """A function that does not fit on a screen has a part that wants a name."""
    long = [
        f"{path}: {node.name} ({lines} lines)"
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > 70
    ]

    assert long == []


async def test_the_suite_cannot_reach_the_network(blocked_connections: list[str]) -> None:
    """By address or by name, from the loop or beside it: nothing leaves this machine."""
    with pytest.raises(Exception, match="stay on this machine"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(Exception, match="stay on this machine"):
        await asyncio.open_connection("provider.example", 443)
    assert len(blocked_connections) == 2
    blocked_connections.clear()


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Every text file that git knows of, or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so nobody says which files belong to the project")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            try:
                yield name, path.read_text("utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    """The project speaks of itself alone: no home, no neighbour, no mirror."""
    neighbours = "|".join(
        re.escape(path.name) for path in ROOT.parent.iterdir() if path != ROOT and path.is_dir()
    )
    machine = re.compile(
        r"(?<![\w.~-])/(?:home|Users|root|mnt)/\w"
        r"|index[-]url|https?://\S+\.(?:whl|tar\.gz)\b"
        + (rf"|(?<![\w/])\.\./(?:{neighbours})/" if neighbours else "")
        + (rf"|{re.escape(str(ROOT.parent))}/(?=\w)" if len(ROOT.parts) > 2 else "")
    )
    temporary = re.compile(r"/(?:tmp|var|private)(?:/|$)")  # a checkout there proves nothing
    found = [
        f"{name}: {hit[0]}"
        for name, text in tracked_texts()
        if (hit := machine.search(text)) and not temporary.match(hit[0])
    ]

    assert found == []


def pins(lock: Path) -> dict[str, str]:
    """Package and version of every line of a lock; a line of any other shape is refused."""
    logical = re.sub(r"\s*\\\n\s*", " ", lock.read_text("utf-8")).splitlines()
    matches = {line: PIN.match(line) for line in logical if line and not line.startswith("#")}
    assert [line for line, match in matches.items() if match is None] == []
    return {match[1]: match[2] for match in matches.values() if match}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_lock_holds_pins_with_hashes_and_nothing_else(lock: Path) -> None:
    """No address, no option, no path: the hash decides what, whoever installs from where."""
    assert len(pins(lock)) > 30
    assert "://" not in lock.read_text("utf-8")


def test_both_locks_agree() -> None:
    """What was tested is what runs."""
    runtime, dev = pins(LOCKS["runtime"]), pins(LOCKS["dev"])

    assert runtime.items() <= dev.items()


@pytest.mark.parametrize("group", ["project", "build", "dev"])
def test_the_locks_satisfy_what_the_project_asks_for(group: str) -> None:
    """A dependency that is added or raised without locking it anew is noticed here."""
    lock = pins(LOCKS["dev" if group == "dev" else "runtime"])
    asked = (
        PYPROJECT["project"]["dependencies"]
        if group == "project"
        else [entry for entry in PYPROJECT["dependency-groups"][group] if isinstance(entry, str)]
    )

    for requirement in map(Requirement, asked):
        version = lock.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked"
        assert requirement.specifier.contains(Version(version)), f"{requirement} but {version}"


def test_the_trojaned_releases_of_litellm_stay_excluded() -> None:
    """Two releases stole keys; no widening of the range may let them in again."""
    litellm = next(
        requirement
        for requirement in map(Requirement, PYPROJECT["project"]["dependencies"])
        if requirement.name == "litellm"
    )

    assert not any(litellm.specifier.contains(bad) for bad in ("1.82.7", "1.82.8"))
    assert {"!=1.82.7", "!=1.82.8"} <= {str(part) for part in litellm.specifier}


def test_dependencies_are_what_is_imported() -> None:
    """Nothing is used that merely came along with something else; nothing declared is unused.

    What only the gateway needs is imported there, and declared apart; so are the clients of
    Redis and of Dask.
    """
    imported: dict[bool, set[str]] = {True: set(), False: set()}
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = names_used(ast.Module(body=[node], type_ignores=[]))
                is_gateway = path.startswith("orchestrator/server/")
                imported[is_gateway] |= {name.partition(".")[0] for name in names}
    core = declared(PYPROJECT["project"]["dependencies"])
    extra = declared(PYPROJECT["project"]["optional-dependencies"]["server"])
    known = sys.stdlib_module_names | {"adapters", "orchestrator"}

    assert imported[False] - known == core | {"redis", "distributed"}
    assert imported[True] - known - core == extra


def declared(requirements: Iterable[str]) -> set[str]:
    """The packages that are to be installed, by the names under which they are imported."""
    # `ruamel.yaml` is imported through `ruamel`, `pyrate-limiter` as `pyrate_limiter`
    return {Requirement(text).name.partition(".")[0].replace("-", "_") for text in requirements}


def test_the_wheel_carries_the_configs_and_the_types(tmp_path: Path) -> None:
    """An installed package has its patterns and its py.typed, and no tests."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    patterns = {path.name for path in (ROOT / "configs" / "patterns").glob("*.yaml")}

    assert {"adapters/py.typed", "orchestrator/py.typed"} <= names
    assert {f"orchestrator/_configs/patterns/{name}" for name in patterns} <= names
    assert "orchestrator/_configs/orchestrator.yaml" in names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "adapters",
        "orchestrator",
    }


def readme_commands() -> list[str]:
    """The one-line commands of the README that make an environment: the demo, then the tests."""
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)\n```$", readme, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("python3.11 -m venv")]


def test_ci_runs_the_commands_of_the_readme_word_for_word() -> None:
    """What the README promises is what CI has seen working."""
    script = [line.strip() for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()]
    commands = readme_commands()

    assert len(commands) == 2
    assert commands[0].endswith(".venv/bin/orchestrator demo")
    assert commands[1].endswith(".venv/bin/python -m pytest")
    for command in commands:
        assert "\n" not in command
        assert command in script
