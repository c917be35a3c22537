"""``dimladder export``: a result as figures, pgfplots, CSV, tables, macros, BibTeX."""

from __future__ import annotations

import argparse
import sys

from ..errors import UsageError
from .verb import Verb

DEFAULT = "pdf,pgf,csv,tex,macros,bib,equations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "result",
        metavar="RESULT",
        nargs="+",
        help="run folders or .nc files; a theory and a measurement share one figure",
    )
    parser.add_argument(
        "--to", metavar="DIR", required=True, help="folder to write into; files of the same names are replaced"
    )
    parser.add_argument(
        "--format",
        default=DEFAULT,
        metavar="F[,F]",
        help=f"any of pdf, png, svg, pgf, csv, tex, macros, bib, equations, notation (default {DEFAULT})",
    )
    parser.add_argument(
        "--style", default="single", help="single, double, neurips, slides, or a .mplstyle file (default single)"
    )
    parser.add_argument(
        "--width", metavar="LENGTH",
        help="of the figure, instead of the style's: column (two-column article), text (one column), inches, or 8.6cm",
    )  # fmt: skip
    parser.add_argument(
        "--variables", metavar="NAME[,NAME]", help="what to draw, one panel each (default: the first six panels)"
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME=LATEX",
        help="symbol of a variable or parameter, such as --label Q='q_{ij}'; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--axis", action="append", default=[], metavar="NAME=TEXT",
        help="text of an axis, such as --axis time='samples over $d$'; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--no-refine", action="store_true", help="draw lines through the points of the result only, without a new solve"
    )
    parser.add_argument("--theory", metavar="FILE.py", help="the local file of the theory behind a result")
    parser.add_argument("--prefix", default="dl", metavar="LETTERS", help="first letters of every macro (default dl)")


def run(args: argparse.Namespace) -> int:
    from ..registry import load_file

    if args.theory:
        load_file(args.theory)
    from ..publish import export
    from ..results import gather

    variables = args.variables.split(",") if args.variables else None
    source = args.result[0] if len(args.result) == 1 else args.result
    for result in gather(source):
        if result.status != "success":
            print(f"warning: an incomplete result is exported: {result.status} {result.message}", file=sys.stderr)
    written = export(
        source, args.to, args.format.split(","), args.style, variables=variables, prefix=args.prefix,
        labels=_pairs(args.label, "--label"), axes=_pairs(args.axis, "--axis"), width=args.width,
        refine=not args.no_refine,
    )  # fmt: skip
    print("\n".join(map(str, written)))
    return 0


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise UsageError(f"cannot read {text!r}", where=option, hint=f"write it as {option} NAME=TEXT")
        found[name.strip()] = value.strip()
    return found


VERB = Verb("export", "figures, pgfplots + CSV, LaTeX tables, macros, BibTeX of a result", add_arguments, run)
