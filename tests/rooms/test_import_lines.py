"""Heavy engines are imported only where plans are carried out, and the quick doors load none of them."""

import ast
import subprocess
import sys
from pathlib import Path

import datahall

SOURCE = Path(datahall.__file__).parent
HEAVY = {"torch", "ray", "tensorflow", "tf_keras", "jax", "transformers", "lightning", "torchft"}


def may_be_heavy(path):
    room = path.relative_to(SOURCE).parts[0]
    return room in {"real", "workloads"} or path.name.startswith("execute")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_heavy_engines_stay_where_plans_are_carried_out():
    wrong = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        if not may_be_heavy(path)
        for name in set(imported(path)) & HEAVY
    ]
    assert wrong == []


def test_a_rooms_door_never_imports_its_execution():
    wrong = []
    for room in ("compute", "storage", "network"):
        for path in (SOURCE / room).glob("*.py"):
            if path.name.startswith("execute"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                if module and module.startswith(f"datahall.{room}.execute"):
                    wrong.append(f"{path.name} imports {module}")
    assert wrong == []


def test_importing_datahall_loads_neither_numpy_nor_torch():
    code = "import sys, datahall; print(sorted({'numpy', 'torch', 'pydantic'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
