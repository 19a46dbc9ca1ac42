"""Coverage-guided fuzzing of the same targets, for as long as one likes (needs `pip install atheris`).

python -m tests.hyperlog.fuzz_atheris TARGET [libFuzzer options, e.g. -max_total_time=3600]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # optional: only this command needs it

with atheris.instrument_imports(include=["hyperlog"]):
    from tests.hyperlog.fuzz_targets import open_targets


def main() -> None:
    name, options = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as scratch, open_targets(Path(scratch)) as found:
        kinds = {kind.name: kind for kind in found}
        if name not in kinds:
            raise SystemExit(f"no target {name!r}; there are: {', '.join(kinds)}")
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(kinds[name].corpus):
            (corpus / str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], *options, str(corpus)], kinds[name].run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
