"""Functions of the time alone, handed to compiled equations as parameters: a new one compiles nothing else."""

from __future__ import annotations

from . import native
from .addresses import FromAddresses

__all__ = ["TIME", "as_time"]

TIME = native.value_type("as_time", "TIME", "f8(f8)")
as_time = FromAddresses(TIME)
