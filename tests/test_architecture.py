"""The rules of ARCHITECTURE.md, held by a test: imports go down the floors, files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "resnet_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 300

# Folder or module -> floor. A module imports from floors below its own, or from its own folder.
FLOORS = {
    "config": 0,
    "display": 0,
    "errors": 0,
    "files": 0,
    "runtime": 1,
    "models": 1,
    "data": 1,
    "config_files": 1,
    "survival": 2,
    "logs": 3,
    "compress": 3,
    "weights": 2,
    "training": 4,
    "tasks": 5,
    "parity": 6,
    "cost": 6,
    "run": 7,
    "analysis": 8,
    "export": 8,
    "peers": 9,
    "serve": 9,
    "studies": 9,
    "commands": 10,
    "cli": 11,
    "__main__": 12,
}
# Where configs say which tasks there are.
SAID_HERE = [PACKAGE / "config" / "task.py", PACKAGE / "config" / "detect.py"]
# The imports within floor 0.
SIBLINGS = {("config", "errors"), ("files", "errors")}
TASKS = sorted(path.name for path in (PACKAGE / "tasks").iterdir() if (path / "__init__.py").exists())
NEVER_AT_THE_TOP = {"torch", "torchvision", "timm", "tensorflow", "tensorflow_datasets"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = room(path)
    if own == "__init__":
        return  # re-exports, lazily
    assert own in FLOORS, f"{own} has no floor: give it one here and in ARCHITECTURE.md"
    for name in imports(ast.parse(path.read_text())):
        package, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if rest == "__version__":
            continue
        if package != "resnet_jax" or other == own:
            continue
        assert other in FLOORS, f"{path} imports {name} from the package itself; name the module"
        allowed = FLOORS[other] < FLOORS[own] or (own, other) in SIBLINGS
        assert allowed, f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"


def test_task_folders_never_import_each_other():
    assert TASKS
    for path in (PACKAGE / "tasks").rglob("*.py"):
        own = path.relative_to(PACKAGE / "tasks").parts[0]
        if own == "table.py":  # from a config's task to the function that makes it
            continue
        for name in imports(ast.parse(path.read_text())):
            _, _, other = name.partition("resnet_jax.tasks.")
            if other.split(".")[0] in TASKS:
                assert other.split(".")[0] == own, f"{path} imports {name}"


def test_no_task_is_known_below_the_tasks():
    """Not by an import, which the floors forbid, nor by a name or a text that one could act on."""
    numbers = {"top1", "top5"}  # tasks/classify's; published weights are told by them too
    # A network is for something, and its weights are.
    forbidden = {"models": numbers, "weights": set()}
    for path in MODULES:
        if FLOORS.get(room(path), FLOORS["tasks"]) >= FLOORS["tasks"] or path in SAID_HERE:
            continue
        tasks = forbidden.get(room(path), {*TASKS, *numbers})
        for node in ast.walk(ast.parse(path.read_text())):
            known = [getattr(node, field, None) for field in ("id", "attr", "arg", "name", "value")]
            for name in {name for name in known if isinstance(name, str)} & tasks:
                raise AssertionError(f"{path}:{node.lineno} knows a task by {name!r}")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_frameworks_stay_inside_functions(path):
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in top:
        for name in imports(node):
            assert name.split(".")[0] not in NEVER_AT_THE_TOP, f"{path} imports {name} at module level"


@pytest.mark.parametrize("path", [*MODULES, ROOT / "train.py"], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines: would two rooms be clearer?"


def test_models_and_training_need_only_jax_flax_optax_and_orbax():
    """So that benchmarks run on a bare GPU image."""
    absent = ["grain", "tyro", "tensorflow_datasets", "tensorboardX", "cv2", "sklearn", "PIL", "matplotlib"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({[*absent, "torch", "tensorflow"]}))  # importing one of these now fails
import resnet_jax.models, resnet_jax.cost.count, resnet_jax.cost.speed
from resnet_jax.training import evaluate, loop, losses, optim, state, step
from resnet_jax.survival import checkpoint
from resnet_jax.runtime import mesh
from resnet_jax.logs import run_log as metrics
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_expected_error_is_read():
    """`pytest.raises` without `match` would accept any text, also a broken one."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
                assert any(word.arg == "match" for word in node.keywords), f"{path}:{node.lineno} has no match="


def test_limits_that_guard_against_hanging_are_generous():
    """On a machine shared with fifteen others everything takes many times as long; nothing else is timed."""
    short = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            limits = [word.value for word in node.keywords if word.arg == "timeout"]
            limits += node.args if ast.unparse(node.func) == "pytest.mark.timeout" else []
            short += [f"{path}:{x.lineno}" for x in limits if isinstance(x, ast.Constant) and x.value < 1800]
    assert not short
