"""``dimladder cite``: BibTeX of exactly what was used, and a methods sentence."""

from __future__ import annotations

import argparse
import json

from .verb import Verb, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN.toml|RESULT", help="a run file, a run folder or a .nc file")
    parser.add_argument("--theory", metavar="FILE.py", help="the local file of the theory behind a result")
    parser.add_argument("--latex", action="store_true", help="the methods sentence with \\cite commands")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from ..registry import load_file

    if args.theory:
        load_file(args.theory)
    from ..paper import cite

    found = cite(args.source)
    if args.json:
        print(
            json.dumps(
                {
                    "keys": found.keys,
                    "bibtex": found.bibtex,
                    "methods": found.methods,
                    "methods_latex": found.methods_latex,
                }
            )
        )
        return 0
    # A comment of BibTeX's own kind: text outside entries is ignored by it.
    print(found.methods_latex if args.latex else found.methods)
    print(f"\n{found.bibtex}", end="")
    return 0


VERB = Verb("cite", "BibTeX of what a run rests on, and a methods sentence", add_arguments, run)
