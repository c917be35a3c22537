"""What an experiment is: a finite-size simulation that measures order parameters under the theory's names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError

if TYPE_CHECKING:
    import numpy as np

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Sample:
    """What one batch of replicas measured.

    Parameters
    ----------
    coords : mapping of str to array
        Coordinates of the dimensions, such as ``time``. They must be the same in every batch and at every size.
    variables : mapping
        name -> (dims, values) or (dims, values, attributes), or an object with ``.dims`` and ``.values``.
        ``values`` has shape ``(replicas, *dims)``: the leading replica axis is not named in ``dims``. A dimension may
        repeat, as in ``("time", "student", "student")``. A non-finite entry means "not measured in this replica" and
        makes the mean of that entry non-finite.
    """

    coords: Mapping[str, Any]
    variables: Mapping[str, Any]

    def arrays(self) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]:
        """Return name -> (dims, float64 values with the replica axis first, text attributes), checked for shape."""
        import numpy as np

        result = {}
        replicas: int | None = None
        for name, variable in self.variables.items():
            if hasattr(variable, "dims"):
                dims, values = tuple(variable.dims), np.asarray(variable.values, dtype=np.float64)
                known = {key: getattr(variable, key, None) for key in ("latex", "long_name", "units")}
            else:
                dims, values = tuple(variable[0]), np.asarray(variable[1], dtype=np.float64)
                known = dict(variable[2]) if len(variable) > 2 else {}
            replicas = values.shape[0] if replicas is None and values.ndim else replicas
            shape = tuple(
                len(self.coords[d]) if d in self.coords else n for d, n in zip(dims, values.shape[1:], strict=False)
            )
            if values.shape != (replicas, *shape) or len(dims) != values.ndim - 1:
                raise SimulationError(
                    f"the experiment returned {name!r} with shape {values.shape}",
                    why=f"with dims {dims} the shape must be (replicas, ...) = {(replicas, *shape)}",
                )
            result[name] = (dims, values, {key: text for key, text in known.items() if text})
        return result


@dataclass(frozen=True)
class Backend:
    """An array namespace, a device and a floating type: simulations are written once against the Array API.

    Attributes
    ----------
    xp : module
        The array namespace (NumPy through array-api-compat by default).
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    dtype : str
        ``"float32"`` or ``"float64"``.
    graphs : bool
        Whether steps may be recorded as CUDA graphs.
    """

    xp: Any
    device: str = "cpu"
    dtype: str = "float64"
    graphs: bool = True
    _device_streams: dict[int, tuple[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_numpy(self) -> bool:
        """Whether arrays are plain NumPy arrays: the condition for a compiled CPU kernel."""
        return self.xp.__name__ in ("numpy", "array_api_compat.numpy")

    @property
    def is_torch(self) -> bool:
        """Whether arrays are torch tensors."""
        return "torch" in self.xp.__name__

    @property
    def float(self) -> Any:
        """The floating type of the namespace."""
        return getattr(self.xp, self.dtype)

    @property
    def _place(self) -> dict[str, str]:
        return {"device": self.device} if self.is_torch else {}

    def asarray(self, x: Any) -> Any:
        """Return `x` as a floating array on the device."""
        return self.xp.asarray(x, dtype=self.float, **self._place)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Return zeros of the floating type on the device."""
        return self.xp.zeros(shape, dtype=self.float, **self._place)

    def eye(self, n: int) -> Any:
        """Return the identity matrix of the floating type on the device."""
        return self.xp.eye(n, dtype=self.float, **self._place)

    def indices(self, positions: np.ndarray) -> Any:
        """Return integer positions on the device, for `take`."""
        return self.xp.asarray(positions, **self._place)

    def facts(self) -> dict[str, str]:
        """Return what a result should say about the machinery behind it, beyond device and type."""
        if not self.is_torch:
            return {}
        import torch

        name = {"device_name": torch.cuda.get_device_name(self.device)} if self.device.startswith("cuda") else {}
        return {"torch": torch.__version__, **name}

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return `x` as a NumPy array on the host."""
        import numpy as np

        return np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x)

    def normal(self, streams: Sequence[np.random.Generator], shape: tuple[int, ...]) -> Any:
        """Return standard normal draws of shape ``(replicas, *shape)``: replica r draws from ``streams[r]`` only.

        In single precision they are the numbers of double precision, rounded: the same replica, at another accuracy.
        On an accelerator each replica has a generator on the device, seeded by its stream: reproducible there, and
        independent of the other replicas, but not the same numbers as on the CPU. There two calls do not give the
        numbers of one longer call either, so `shape` must not depend on how many replicas run together.
        """
        import numpy as np

        if self.is_torch and not self.device.startswith("cpu"):
            import torch

            return torch.stack([self._drawn_there(shape, s) for s in streams])
        draws = np.empty((len(streams), *shape), dtype=self.dtype)
        for replica, generator in enumerate(streams):
            if self.dtype == "float64":
                generator.standard_normal(out=draws[replica])
            else:
                draws[replica] = generator.standard_normal(shape)
        return self.asarray(draws)

    def _drawn_there(self, shape: tuple[int, ...], stream: np.random.Generator) -> Any:
        """Return draws of a replica's generator on the device, in double precision where the device has it."""
        import torch

        finest = torch.float32 if self.device.startswith("mps") else torch.float64
        drawn = torch.randn(shape, generator=self._on_device(stream), dtype=finest, device=self.device)
        return drawn.to(self.float)

    def _on_device(self, stream: np.random.Generator) -> Any:
        import torch

        # The stream is kept beside its device generator so that its id stays taken.
        if id(stream) not in self._device_streams:
            generator = torch.Generator(device=self.device)
            generator.manual_seed(int(stream.integers(0, 2**63 - 1)))
            self._device_streams[id(stream)] = (stream, generator)
        return self._device_streams[id(stream)][1]


def backend_for(device: str = "cpu", dtype: str = "float64") -> Backend:
    """Return the backend of a device name.

    Parameters
    ----------
    device : str
        ``"cpu"`` is NumPy. ``"cuda"``, ``"cuda:N"``, ``"mps"`` and ``"torch"`` (torch on the CPU) need torch.
    dtype : {"float64", "float32"}

    Raises
    ------
    SimulationError
        If the type is unknown, torch is missing, or the device does not exist.
    """
    if dtype not in DTYPES:
        raise SimulationError(f"unknown dtype {dtype!r}", hint=f"use one of {', '.join(DTYPES)}")
    if device == "cpu":
        import array_api_compat.numpy as xp

        return Backend(xp, "cpu", dtype)
    kind, colon, number = device.partition(":")
    if kind not in ("cuda", "mps", "torch") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise SimulationError(
            f"unknown device {device!r}", hint="use cpu, cuda, cuda:N, mps, or torch (torch on the CPU)"
        )
    try:
        import array_api_compat.torch as xt
        import torch
    except ImportError as error:
        raise SimulationError(
            f"the device {device!r} needs torch, which is not installed",
            why=str(error),
            hint="pip install 'dimladder[gpu]', or simulate with device='cpu'",
        ) from None
    where = "cpu" if kind == "torch" else device
    if kind == "mps" and dtype == "float64":
        raise SimulationError("the device 'mps' has no float64", hint="use dtype='float32'")
    count = {"torch": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if count == 0:
        raise SimulationError(
            f"no {kind} device is available to torch {torch.__version__}",
            why="this build of torch is for the CPU only" if kind == "cuda" and torch.version.cuda is None else None,
            hint="check the driver and the build of torch, or use device='cpu'",
        )
    if colon and int(number) >= count:
        raise SimulationError(f"there is no device {device!r}", why=f"torch sees {count}, numbered from 0")
    return Backend(xt, where, dtype)


@dataclass(frozen=True)
class Closing:
    """How the gap between simulation and limit closes with the size, |gap| ~ size^-a, as far as it is known.

    Attributes
    ----------
    exponent : float or None
        a, where it can be proved for the problem. None: `compare` measures it.
    slowest : float
        Where it is measured: the slowest closing that is still taken for one. A slower one passes for an error.
    reason : str
        The proof, or why nothing slower happens.
    """

    exponent: float | None = None
    slowest: float = 0.25
    reason: str = ""


class Experiment(ABC):
    """A finite-size simulation of the problems of one theory.

    Attributes
    ----------
    theory : str
        Name of the theory it checks; the experiment has the same entry-point name.
    size : str
        Name of the size coordinate (``"d"``, ``"n"``, ``"width"``, ``"samples"``, ...), also its key in
        ``[simulation]``.
    least_size : int
        The smallest size at which the experiment means anything.
    batch_size : int
        Replicas run together, and saved together.
    device_batch_size : int or None
        The same on an accelerator, which many replicas fill and few leave idle. None: `batch_size`.
    on_host : str
        Why everything is computed on the CPU in double precision, whatever the device; empty where training runs on it.
        Every experiment that moves weights runs on the device.
    """

    theory: str
    size: str = "d"
    least_size: int = 1
    batch_size: int = 16
    device_batch_size: int | None = None
    on_host: str = ""

    @abstractmethod
    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Simulate ``len(streams)`` replicas at one size and return what they measured.

        Replica r draws from ``streams[r]`` only. The replicas' numbers must not depend on who else is in the batch.
        """

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        """Return about how many floating numbers one replica holds at once; 0, the default, where nobody counted.

        `memory.plan` runs no more replicas together than fit. Count what grows with the size: weights and their copies,
        activations, data, draws ahead.
        """
        return 0

    def at_size(self, problem: Any, size: int) -> Any:
        """Return the problem whose theory describes this size; the problem itself where the theory is a limit.

        Override it where the theory keeps a finite size of its own (``[limit] d``, a sample ratio): `compare` then
        solves the theory once for each size.
        """
        return problem

    def closing(self, problem: Any) -> Closing:
        """Return how the gap closes for this problem; by default that is measured.

        Declare an exponent only where it is proved for this problem, with the reason: a theory whose gap closes more
        slowly than declared is called wrong.
        """
        return Closing()

    def imposed(self, problem: Any) -> Mapping[str, Mapping[str, float]]:
        """Return which entries are given to the simulation: variable -> coordinates; none: the whole variable.

        ``{"Q": {"time": 0.0}, "a": {}}`` says that overlaps start where the problem says and readouts never move. Such
        entries must be the theory's, but are no evidence for it and are not counted.
        """
        return {}

    def exact(self, problem: Any) -> tuple[str, ...]:
        """Return the variables that the theory gives at every finite size, replica by replica or as a mean over them.

        They are held to the numerical accuracy of the theory and to the scatter of the replicas, and count as evidence:
        there is nothing to extrapolate.
        """
        return ()

    def open_limit(self, problem: Any) -> str:
        """Return why larger sizes alone do not approach the theory's limit; empty where they do, as by default.

        Override it where other numbers of ``[simulation]`` have to grow with the size: a gap that stays then leaves
        `compare` undecided instead of speaking against the theory.
        """
        return ""


def chunks(total: int, most: int) -> list[int]:
    """Split `total` steps into blocks of at most `most`, to bound the memory of pre-drawn randomness."""
    full, rest = divmod(total, most)
    return [most] * full + ([rest] if rest else [])


def ridge_fit(features: Any, y: Any, penalty: float, backend: Backend) -> Any:
    """Return argmin |y - H w|^2 + penalty |w|^2 for H (..., samples, width), in the smaller of the two Gram spaces.

    In double precision where the device has it: a Gram matrix squares the condition of the features.
    """
    xp = backend.xp
    samples, width = features.shape[-2:]
    if not backend.device.startswith("mps"):
        features, y = (xp.astype(v, xp.float64) for v in (features, y))
    across, y = xp.matrix_transpose(features), y[..., None]
    small = min(samples, width)
    diagonal = penalty * xp.astype(backend.eye(small), features.dtype)
    if samples < width:
        w = xp.matmul(across, xp.linalg.solve(xp.matmul(features, across) + diagonal, y))
    else:
        w = xp.linalg.solve(xp.matmul(across, features) + diagonal, xp.matmul(across, y))
    return xp.astype(w[..., 0], backend.float)
