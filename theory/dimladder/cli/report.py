"""``dimladder report``: one self-contained HTML page about a result."""

from __future__ import annotations

import argparse

from .verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="RESULT", nargs="+", help="run folders or .nc files")
    parser.add_argument("-o", "--output", metavar="FILE.html", default="report.html", help="default report.html")
    parser.add_argument("--variables", metavar="NAME[,NAME]", help="what to draw, one panel each")
    parser.add_argument("--no-refine", action="store_true", help="draw lines through the points of the result only")
    parser.add_argument("--theory", metavar="FILE.py", help="the local file of the theory behind a result")


def run(args: argparse.Namespace) -> int:
    from ..publish import report
    from ..registry import load_file

    if args.theory:
        load_file(args.theory)
    source = args.result[0] if len(args.result) == 1 else args.result
    variables = args.variables.split(",") if args.variables else None
    print(report(source, args.output, variables=variables, refine=not args.no_refine))
    return 0


VERB = Verb("report", "one HTML page: curves to zoom into, equations, verdict, provenance, data", add_arguments, run)
