"""The size and shape of services/fusery: lines, entries, folders, functions called from one place, import circles.

python bench/house.py [ROOT]      # ROOT: another checkout; writes bench/results/house.json without it
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grimp
import networkx
from result_file import write_result

ROOT = Path(__file__).parent.parent


def shape(root: Path) -> dict[str, Any]:
    """Of the Python files below `root`, generated ones left out; a function counts where its own file names it once."""
    package = root / "services/fusery"
    files = [path for path in package.rglob("*.py") if "pb" not in path.parts]
    private: Counter[int] = Counter()
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = Counter(
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Name | ast.Attribute)
        )
        private.update(
            named[node.name]
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_") and not node.name.startswith("__")
        )
    folders = Counter(path.parent for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files),
        "files": len(files),
        "entries_at_the_top": len([path for path in package.iterdir() if path.name != "__pycache__"]),
        "largest_folder": max(folders.values()),
        "private_functions": private.total(),
        "called_from_one_place": private[1],
    }


def circles() -> int:
    """Groups of modules that import each other, imports inside functions counted."""
    graph = grimp.build_graph("fusery", include_external_packages=False)
    imports = [(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)]
    return sum(len(group) > 1 for group in networkx.strongly_connected_components(networkx.DiGraph(imports)))


def main() -> None:
    given = [Path(root) for root in sys.argv[1:]]
    found = shape(given[0] if given else ROOT)
    share = found["called_from_one_place"] / found["private_functions"]
    if not given:
        found["import_circles"] = circles()
    for name, value in found.items():
        print(f"{name:<24}{value:>8,}")
    print(f"{'share called once':<24}{share:>8.0%}")
    if not given:
        write_result(
            "house",
            measure="lines of services/fusery without generated code",
            value=found["lines"],
            unit="lines",
            baseline=None,
            ratio=None,
            goal="27,500 lines, 14 entries, 16 files a folder, no circle, half of the private functions called once",
            **found,
        )


if __name__ == "__main__":
    main()
