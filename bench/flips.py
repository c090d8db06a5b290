"""1000 random blows at a store's files: all found at the next open, all made again with equal bytes.

    python bench/flips.py [--blows 1000] [--seed 0]

Artefacts of every kind, their entries, and notes, in turn; a blow changes one byte, or lets the file end too soon.
The same seed gives the same blows. tests/support/store/damaging.py has what it does; the tests run a short one.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from result_file import write_result

from support.store.damaging import campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # Every damaged entry is a warning.
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), given.blows, given.seed)
    for kind, hits in sorted(found.hits.items()):
        print(f"{kind:16} {hits:5} hit")
    for what, blows in (("not found", found.not_found), ("not made again as it was", found.not_mended)):
        print(f"{what}: {len(blows)}")
        for blow in blows:
            print(f"  {blow}")
    ok = given.blows - len({*found.not_found, *found.not_mended})
    write_result(
        "flips",
        measure="random damages to a store's files that are found at the next open and mended with equal bytes",
        value=ok,
        unit="damages",
        baseline={"what": "damages", "value": given.blows, "unit": "damages"},
        ratio=ok / given.blows,
        goal="all of them",
        seed=given.seed,
        hits=dict(sorted(found.hits.items())),
        truncated=found.truncated,
        not_found=found.not_found,
        not_mended=found.not_mended,
    )
    return 0 if ok == given.blows else 1


if __name__ == "__main__":
    raise SystemExit(main())
