"""``dimladder export``: a result as figures, pgfplots, CSV, tables, macros, BibTeX."""

from __future__ import annotations

import argparse
import sys

from .verb import Verb

DEFAULT = "pdf,pgf,csv,tex,macros,bib"


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
        help=f"any of pdf, png, svg, pgf, csv, tex, macros, bib, equations (default {DEFAULT})",
    )
    parser.add_argument(
        "--style", default="single", help="single, double, neurips, slides, or a .mplstyle file (default single)"
    )
    parser.add_argument(
        "--variables", metavar="NAME[,NAME]", help="what to draw, one panel each (default: the first six panels)"
    )
    parser.add_argument("--prefix", default="dl", metavar="LETTERS", help="first letters of every macro (default dl)")


def run(args: argparse.Namespace) -> int:
    from ..paper import export, gather

    variables = args.variables.split(",") if args.variables else None
    source = args.result[0] if len(args.result) == 1 else args.result
    for result in gather(source):
        if result.status != "success":
            print(f"warning: an incomplete result is exported: {result.status} {result.message}", file=sys.stderr)
    for path in export(source, args.to, args.format.split(","), args.style, variables=variables, prefix=args.prefix):
        print(path)
    return 0


VERB = Verb("export", "figures, pgfplots + CSV, LaTeX tables, macros, BibTeX of a result", add_arguments, run)
