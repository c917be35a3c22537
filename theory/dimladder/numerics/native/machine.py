"""From LLVM text to functions of this process, with the object code kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ... import cache as disk
from ...progress import stage
from .functions import Native, entries
from .lowering import Function, Unit
from .types import Refused, Signature

log = logging.getLogger("dimladder.native")
_LOCK = threading.RLock()
_DIGEST = hashlib.sha256().digest_size
# Engines own the code of the functions, which live as long as the process.
_engines: list[Any] = []
# What is compiled: name, kernel, signature.
Wanted = Sequence[tuple[str, Any, Signature]]


def compiled(
    stamp: str, wanted: Wanted, function_types: Mapping[str, Signature], translator: type[Function] = Function
) -> dict[str, Native]:
    """Translate functions and load them; from the disk where a process has done so before.

    Parameters
    ----------
    stamp : str
        What decides the code: a hash of the sources.
    wanted : sequence of (name, kernel, signature)
    function_types : dict
        Names of the functions that make a callable from an address, and its type.
    translator : type, optional
        For numbers that carry derivatives (`tangents`) or know their place on a tape (`tape`). Arrays are then longer,
        and the tape is one more argument, an array of doubles whose first is the number of rows in use.

    Raises
    ------
    Refused
        For code outside the subset.
    """
    with _LOCK:
        wide = all(kernel.wide for _, kernel, _ in wanted)
        key = f"{stamp}{translator.__name__}"
        engine = _loaded(_kept(key, lambda: _object(translated(wanted, function_types, translator), wide)))
        return {name: Native(engine, name, translator.seen(signature)) for name, _, signature in wanted}


def translated(wanted: Wanted, function_types: Mapping[str, Signature], translator: type[Function] = Function) -> str:
    """Return the LLVM text of functions; arguments as those of `compiled`."""
    unit = Unit(function_types, translator)
    for name, kernel, signature in wanted:
        function = unit.instance(kernel, signature.arguments)
        inner, between = translator.adapted(function.name, signature)
        unit.text += [*between, *entries(name, inner, translator.seen(signature))]
    return unit.ir()


@cache
def _target() -> Any:
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3, jit=True
    )


def _object(ir: str, wide: bool) -> bytes:
    code: bytes = _target().emit_object(optimised(ir, wide))
    return code


def optimised(ir: str, wide: bool) -> Any:
    """Return a module of LLVM, optimised for this processor; `wide`: loops are unrolled and vectorised."""
    import llvmlite.binding as binding

    machine = _target()
    try:
        module = binding.parse_assembly(ir)
        options = binding.create_pipeline_tuning_options(speed_level=3)
    except (RuntimeError, AttributeError) as error:
        raise Refused(f"this LLVM does not take it: {error}") from error
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = wide
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return module


def _loaded(code: bytes) -> Any:
    import llvmlite.binding as binding

    _target()
    empty = binding.parse_assembly("")
    machine = binding.Target.from_default_triple().create_target_machine(opt=3, jit=True)
    engine = binding.create_mcjit_compiler(empty, machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine


@cache
def platform() -> str:
    """Return what object code depends on besides the source: processor, LLVM, the translator itself."""
    import llvmlite
    import llvmlite.binding as binding

    here = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    parts = [binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten(), binding.get_default_triple()]
    parts += [llvmlite.__version__, str(binding.llvm_version_info), hashlib.sha256(sources).hexdigest()]
    return "\n".join(parts)


def _kept(stamp: str, build: Callable[[], bytes]) -> bytes:
    """Return object code from the cache; a file that is damaged counts as absent."""
    key = hashlib.sha256(f"{stamp}\n{platform()}".encode()).hexdigest()[:24]
    path = disk.folder("compiled") / f"native_{key}.o"
    try:
        content = path.read_bytes()
        if not disk.distrusted(path) and hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
            return content[_DIGEST:]
        log.warning("%s is damaged, or not yours: it is compiled again", path)
    except OSError:
        pass
    with stage("compiling, once"):
        code = build()
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
    except OSError as error:
        log.warning("compiled code cannot be kept in %s (%s)", path, error.strerror)
    return code
