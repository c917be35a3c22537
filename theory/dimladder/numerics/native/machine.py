"""From LLVM text to functions of this process, with the object code kept on disk.

A function translated here has two entries. ``NAME`` is called as numba calls its own native code, so that it may stand
wherever compiled code takes the address of a function of numba, and the other way round; ``NAME.flat`` takes an array
as pointer and shape, and is what Python calls.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ... import cache as disk
from ...progress import stage
from .inference import flat, llvm
from .lowering import Unit
from .tangents import Carrying
from .types import BOOL, F64, I64, VOID, Array, Refused, Signature

log = logging.getLogger("dimladder.native")
_LOCK = threading.RLock()
_DIGEST = hashlib.sha256().digest_size
# Engines own the code of the functions, which live as long as the process.
_engines: list[Any] = []
# An observable of many states: f(y, p, work).
OBSERVABLE = Signature(F64, (Array(F64, 1), Array(F64, 1), Array(F64, 1)))


class _State(ctypes.Structure):
    """What a function of numba, called by its address, has raised: numba's status, and where it describes it."""

    _fields_ = (("status", ctypes.c_int32), ("what", ctypes.c_void_p))

    def exception(self) -> BaseException:
        if self.status < 0 or not self.what:
            return RuntimeError("a compiled function raised an exception")
        # numba keeps the class and its arguments pickled: pointer, length.
        described = _Described.from_address(self.what)
        kind, arguments, *_ = pickle.loads(ctypes.string_at(described.pickled, described.length))
        found: BaseException = kind(*(arguments or ()))
        return found


class _Described(ctypes.Structure):
    _fields_ = (("pickled", ctypes.c_void_p), ("length", ctypes.c_int32))


class Native:
    """One compiled function: its address for other compiled code, a call from Python, and the Python it came from."""

    py_func: Any = None
    # The same function of numbers that carry derivatives, and of those that know their place on a tape.
    with_tangents: Callable[[], Native] | None = None
    with_tape: Callable[[], Native] | None = None

    def __init__(self, engine: Any, name: str, signature: Signature) -> None:
        self.__name__, self.signature = name, signature
        self.address = int(engine.get_function_address(name))
        # Of every argument, what an array must be; None for a number.
        self._arrays = [
            (_DTYPE[kind.element], kind.ndim) if isinstance(kind, Array) else None for kind in signature.arguments
        ]
        words: list[Any] = [ctypes.c_void_p]
        for kind in signature.arguments:
            if isinstance(kind, Array):
                words += [ctypes.c_void_p, *[ctypes.c_int64] * kind.ndim]
            else:
                words.append(ctypes.c_void_p if isinstance(kind, Signature) else _C[kind])
        result: Any = None if signature.result == VOID else _C[signature.result]
        self._call = ctypes.CFUNCTYPE(result, *words)(engine.get_function_address(f"{name}.flat"))
        self._rows = None
        if signature == OBSERVABLE:
            pointer, length = ctypes.c_void_p, ctypes.c_int64
            shape = (pointer, length, length, pointer, length, pointer, length, pointer)
            self._rows = ctypes.CFUNCTYPE(None, *shape)(engine.get_function_address(f"{name}.rows"))

    def __call__(self, *arguments: Any) -> Any:
        state = _State()
        if len(arguments) != len(self._arrays):
            raise TypeError(f"{self.__name__} takes {len(self._arrays)} arguments, got {len(arguments)}")
        found = self._call(ctypes.addressof(state), *self._flat(arguments))
        if state.status:
            raise state.exception()
        return found

    def _flat(self, arguments: Sequence[Any]) -> list[Any]:
        words: list[Any] = []
        for value, array in zip(arguments, self._arrays, strict=False):
            if array is None:
                words.append(value)
            else:
                words += _words(value, *array)
        return words

    def bound(self, *arguments: Any) -> Callable[..., Any]:
        """Return the function of what follows these arguments, which are numbers; one thread at a time calls it.

        The arrays are looked up once: for many of them that takes longer than a short call.
        """
        return _Bound(self, arguments)

    def over(self, states: np.ndarray, p: np.ndarray, work: np.ndarray) -> np.ndarray:
        """Return an observable ``f(y, p, work)`` of every row of `states`, in one call."""
        if self._rows is None:
            raise TypeError(f"{self.__name__} is no observable of a state")
        out = np.empty(len(states))
        double = _DTYPE[F64]
        self._rows(*_words(states, double, 2), *_words(p, double, 1), *_words(work, double, 1), out.ctypes.data)
        return out


class _Bound:
    """A function with its first arguments, which live as long as it does."""

    def __init__(self, function: Native, arguments: Sequence[Any]) -> None:
        self._state, self._arguments = _State(), arguments
        self._call = partial(function._call, ctypes.addressof(self._state), *function._flat(arguments))

    def __call__(self, *numbers: Any) -> Any:
        self._state.status = 0
        found = self._call(*numbers)
        if self._state.status:
            raise self._state.exception()
        return found


_C = {F64: ctypes.c_double, I64: ctypes.c_int64, BOOL: ctypes.c_bool}
_first, _address = ctypes.c_char.from_buffer, ctypes.addressof
_DTYPE = {F64: np.dtype(np.float64), I64: np.dtype(np.int64)}


def _words(value: Any, dtype: Any, ndim: int) -> list[int]:
    shape = value.shape
    if value.dtype != dtype or len(shape) != ndim or not value.flags.c_contiguous:
        raise TypeError(
            f"compiled code takes contiguous arrays of {dtype} and {ndim} dimensions, got {value.dtype} of shape "
            f"{shape}"
        )
    try:
        # A tenth of the time that NumPy takes to say where the array lies.
        return [_address(_first(value)), *shape]
    except (TypeError, ValueError):
        # Read-only, or empty.
        return [value.__array_interface__["data"][0], *shape]


def compiled(
    stamp: str,
    entries: Sequence[tuple[str, Any, Signature]],
    function_types: dict[str, Signature],
    carrying: type[Carrying] | None = None,
) -> dict[str, Native]:
    """Translate functions and load them; from the disk where a process has done so before.

    Parameters
    ----------
    stamp : str
        What decides the code: a hash of the sources.
    entries : sequence of (name, kernel, signature)
    function_types : dict
        Names of the functions that make a callable from an address, and its type.
    carrying : type, optional
        Of numbers that carry derivatives (`tangents`) or know their place on a tape (`tape`). Arrays are then longer,
        and the tape is one more argument, an array of doubles whose first is the number of rows in use.

    Raises
    ------
    Refused
        For code outside the subset.
    """
    with _LOCK:
        wide = all(kernel.wide for _, kernel, _ in entries)
        kind = carrying.__name__ if carrying else ""
        code = _kept(f"{stamp}{kind}", lambda: _object(translated(entries, function_types, carrying), wide))
        engine = _loaded(code)
        return {name: Native(engine, name, _seen(signature, carrying)) for name, _, signature in entries}


def _seen(signature: Signature, carrying: type[Carrying] | None) -> Signature:
    """Return the signature as callers see it."""
    if carrying is None or not carrying.taped:
        return signature
    return Signature(signature.result, (*signature.arguments, Array(F64, 1)))


def translated(
    entries: Sequence[tuple[str, Any, Signature]], function_types: dict[str, Signature],
    carrying: type[Carrying] | None = None,
) -> str:  # fmt: skip
    unit = Unit(function_types, carrying)
    for name, kernel, signature in entries:
        function = unit.emitted(kernel, signature.arguments)
        if carrying is None:
            unit.text += _entries(name, function.name, signature)
            continue
        # Its arrays are seen from outside as longer ones of doubles; that is undone between the two.
        unit.text.append(_shortened(f"{function.name}.long", function.name, signature, carrying))
        unit.text += _entries(name, f"{function.name}.long", _seen(signature, carrying))
    return unit.ir()


def _entries(name: str, inner: str, signature: Signature) -> list[str]:
    """Return the two entries of a function, and a third over rows of states where it is an observable."""
    kinds, result = signature.arguments, llvm(signature.result)
    names = [f"%a{k}" for k in range(len(kinds))]
    parameters = ", ".join(p for n, k in zip(names, kinds, strict=True) for p in flat(n, k))
    numba, read = ["ptr %result", "ptr %raised"], []
    for n, kind in zip(names, kinds, strict=True):
        if isinstance(kind, Array):
            numba += [f"ptr {n}.owner", f"ptr {n}.parent", f"i64 {n}.items", f"i64 {n}.bytes", f"ptr {n}"]
            numba += [f"i64 {n}.{k}" for k in range(kind.ndim)] + [f"i64 {n}.stride{k}" for k in range(kind.ndim)]
        elif kind == BOOL:
            numba.append(f"i8 {n}.byte")
            read.append(f"{n} = trunc i8 {n}.byte to i1")
        else:
            numba.append(f"{llvm(kind)} {n}")
    call = f"call {result} @{inner}({', '.join(['ptr %state', parameters])})"
    value = "" if signature.result == VOID else "%r = "
    stored = []
    if signature.result == BOOL:
        stored = ["%byte = zext i1 %r to i8", "store i8 %byte, ptr %result"]
    elif value:
        stored = [f"store {result} %r, ptr %result"]
    fresh = ["%state = alloca {i32, ptr}", "store {i32, ptr} zeroinitializer, ptr %state"]
    status = [
        "%place = getelementptr {i32, ptr}, ptr %state, i32 0, i32 1", "%what = load ptr, ptr %place",
        "store ptr %what, ptr %raised", "%status = load i32, ptr %state", "ret i32 %status",
    ]  # fmt: skip
    back = f"ret {result} %r" if value else "ret void"
    head = f'define i32 @"{name}"({", ".join(numba)}) nounwind {{'
    lines = [head, *read, *fresh, f"{value}{call}", *stored, *status, "}"]
    lines += [f'define {result} @"{name}.flat"(ptr %state, {parameters}) nounwind {{', f"{value}{call}", back, "}"]
    if signature == OBSERVABLE:
        lines += [_ROWS.format(name=name, inner=inner)]
    return lines


def _shortened(name: str, inner: str, signature: Signature, carrying: type[Carrying]) -> str:
    """Return a function of arrays of doubles that calls one of arrays of vectors: the last axis holds them."""
    if signature.result != VOID:
        raise Refused("tangents of a function that returns something")
    seen = _seen(signature, carrying).arguments
    names = [f"%a{k}" for k in range(len(seen))]
    given, lines = ["ptr %state"], []
    for n, kind in zip(names, signature.arguments, strict=False):
        if isinstance(kind, Array):
            last = f"{n}.{kind.ndim - 1}"
            lines.append(f"{last}.q = sdiv i64 {last}, {carrying.lanes}")
            given += [f"ptr {n}", *(f"i64 {n}.{k}" for k in range(kind.ndim - 1)), f"i64 {last}.q"]
        elif kind == F64:
            vector = carrying.vector_type()
            lines.append(f"{n}.v = insertelement {vector} zeroinitializer, double {n}, i32 0")
            given.append(f"{vector} {n}.v")
        else:
            given.append(f"{llvm(kind)} {n}")
    parameters = ", ".join(["ptr %state", *(p for n, k in zip(names, seen, strict=True) for p in flat(n, k))])
    call = f"call void @{inner}({', '.join(given)})"
    body = carrying.laid_out(call, names[-1]) if carrying.taped else [call]
    return "\n".join([f"define internal void @{name}({parameters}) nounwind {{", *lines, *body, "ret void", "}"])


_ROWS = """define void @"{name}.rows"(ptr %y, i64 %rows, i64 %n, ptr %p, i64 %np, ptr %w, i64 %nw, ptr %out) nounwind {{
entry:
  %state = alloca {{i32, ptr}}
  br label %head
head:
  %k = phi i64 [0, %entry], [%next, %body]
  %more = icmp slt i64 %k, %rows
  br i1 %more, label %body, label %end
body:
  %at = mul i64 %k, %n
  %row = getelementptr double, ptr %y, i64 %at
  %r = call double @{inner}(ptr %state, ptr %row, i64 %n, ptr %p, i64 %np, ptr %w, i64 %nw)
  %place = getelementptr double, ptr %out, i64 %k
  store double %r, ptr %place
  %next = add i64 %k, 1
  br label %head
end:
  ret void
}}"""


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
