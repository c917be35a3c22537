"""Run the commands and programs of tutorials, and write what they print into the pages.

``python docs/tutorials/execute.py`` runs all pages, ``python docs/tutorials/execute.py multi-pass`` one. Blocks of
``bash`` and ``python`` run in order, in an empty folder; what they print stands below them as ``text``. Pictures that
they save are kept in ``figures``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_LONGEST = 150


def executed(page: str) -> str:
    """Return a page with the output of its blocks, which run in the present folder."""
    names: dict[str, Any] = {"__name__": "__main__"}

    def run(found: re.Match[str]) -> str:
        language, code = found[1], found[2]
        out = _shell(code) if language == "bash" else _program(code, names)
        text = f"```{language}\n{code}```\n"
        lines = [line.rstrip()[:_LONGEST] for line in out.strip("\n").splitlines()]
        return text + (f"\n```text\n{chr(10).join(lines)}\n```\n" if lines else "")

    return _BLOCK.sub(run, page)


def _shell(code: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    # Verdicts are exit statuses too.
    if done.returncode not in (0, 1, 3) or "error:" in done.stderr:
        raise SystemExit(f"{code}\n{done.stderr}")
    return done.stdout


def _program(code: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "tutorial", "exec"), names)
    return out.getvalue()


def main(chosen: list[str]) -> None:
    """Execute pages and rewrite them."""
    for path in sorted(HERE.glob("*.md")):
        if chosen and path.stem not in chosen:
            continue
        text, back = path.read_text(encoding="utf-8"), Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                new = executed(text)
                for picture in Path().glob("*.png"):
                    shutil.copy(picture, HERE / "figures" / picture.name)
            finally:
                os.chdir(back)
        path.write_text(new, encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    main(sys.argv[1:])
