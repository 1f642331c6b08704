"""A strict CuPy double: NumPy storage behind CuPy's rules, for machines without a GPU.

`xp` stands for the module `cupy`, `ndarray` for `cupy.ndarray`. Names, signatures and the order
of arguments are read from the real `cupy`, which can be imported without a GPU. What CuPy
refuses is refused; what CuPy does in silence but slowly (transfer, wait, allocate) is recorded
in `ledger` and can be made an error with `forbid`. Where CuPy is lenient (NumPy scalars as
operands, NumPy functions that dispatch to CuPy) the double is not: code that passes here
relies on none of it.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import cupy
import numpy

from xpnet.backend import add_array_module

EVENTS = ("op", "alloc", "h2d", "d2h", "sync")

# Functions whose result has a size that only the device knows, so CuPy waits for it.
_WAITING = {"nonzero", "flatnonzero", "argwhere", "unique", "bincount", "compress", "extract"}
# Functions that answer from shapes and dtypes, with values of the host.
_ABOUT_ARRAYS = {"ndim", "shape", "size", "result_type", "can_cast", "promote_types", "isscalar"}
_ABOUT_ARRAYS |= {"may_share_memory", "shares_memory", "broadcast_shapes", "min_scalar_type"}
_ABOUT_ARRAYS |= {"iscomplexobj", "isrealobj", "issubdtype", "common_type"}
# Parameters that must be a device array (no list, no number), and those that can't be one.
_ARRAYS = {"a", "arr", "ary", "m", "dst", "prototype"}
_HOST_NUMBERS = {"shape", "newshape", "axis", "axes", "start", "stop", "step", "num", "N", "M", "k"}
# What `ndarray` has as methods and operators, by the name of the function that does it.
_METHODS = {"all", "any", "argmax", "argmin", "argsort", "clip", "cumprod", "cumsum", "diagonal"}
_METHODS |= {"dot", "max", "mean", "min", "nonzero", "prod", "ptp", "repeat", "round", "squeeze"}
_METHODS |= {"std", "sum", "swapaxes", "take", "trace", "var"}
_BINARY = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide"}
_BINARY |= {"floordiv": "floor_divide", "mod": "remainder", "pow": "power", "matmul": "matmul"}
_BINARY |= {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
_BINARY |= {"lshift": "left_shift", "rshift": "right_shift"}
_OTHER = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater"}
_OTHER |= {"ge": "greater_equal", "neg": "negative", "pos": "positive", "abs": "absolute"}
_OTHER |= {"invert": "invert"}


class Ledger:
    """What happened since `reset()`: `counts` by event, `operations` by name, and where."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.devices: set[int] = set()
        self.forbidden: frozenset[str] = frozenset()

    def reset(self) -> None:
        self.counts.clear()
        self.operations.clear()
        self.devices.clear()

    def record(self, event: str, operation: str) -> None:
        capture.refuse(event, operation)
        self.counts[event] += 1
        self.devices.add(current[-1])
        if event == "op":
            self.operations[operation] += 1
        if event in self.forbidden:
            raise AssertionError(f"{operation} caused {event}, which is forbidden here")

    def record_all(self, operation: str, *events: str) -> None:
        for event in ("op", *events):
            self.record(event, operation)

    @contextmanager
    def forbid(self, *events: str) -> Iterator[None]:
        """Within the block each of `events` raises `AssertionError`, naming the operation."""
        if unknown := set(events) - set(EVENTS):
            raise ValueError(f"unknown events {sorted(unknown)}: use {EVENTS}")
        before = self.forbidden
        self.forbidden = before | set(events)
        try:
            yield
        finally:
            self.forbidden = before


class Capture:
    """While a stream is captured, calls with `out=` are kept, not run; see `strict_graphs`."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] | None = None
        self.is_broken = False

    def keep(self, name: str, call: Callable[[], Any], out: Any) -> Any:
        """`call` for later, if it can be; returns what it will return."""
        assert self.calls is not None
        if name in ("dot", "matmul"):
            raise NotImplementedError("calling cuBLAS API during stream capture is unsupported")
        if out is None:
            self.refuse("alloc", name)
        self.calls.append(call)
        return out

    def refuse(self, event: str, operation: str) -> None:
        """Whatever is no call with `out=` spoils the capture, if there is one."""
        if self.calls is not None:
            self.is_broken = True
            raise RuntimeError(f"{operation} ({event}) is not permitted while capturing")


capture = Capture()
ledger = Ledger()
forbid = ledger.forbid


class ndarray:
    """An array whose values leave only through `get`, `item`, `float`, `int` and `bool`."""

    __hash__ = None  # type: ignore[assignment]
    # NumPy's operators step aside, so that `host + device` reaches __radd__ and is refused.
    __array_ufunc__ = None

    def __init__(self, host: Any) -> None:
        if host.dtype.char not in "?bBhHiIlLqQefdFD":
            raise TypeError(f"CuPy has no arrays of dtype {host.dtype}")
        self._host, self._device = host, current[-1]

    device = property(lambda self: Device(self._device))
    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data))
    T = property(lambda self: ndarray(self._host.T))

    @property
    def flags(self) -> types.SimpleNamespace:
        """The flags that CuPy has: no `writeable`, no `aligned`."""
        names = ("c_contiguous", "f_contiguous", "owndata")
        return types.SimpleNamespace(**{n: getattr(self._host.flags, n) for n in names})

    # Transfers to the host.

    @property
    def __array_interface__(self) -> Any:
        return self.__array__()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array is not allowed: use get()")

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was given a device array: use xp")

    def get(self) -> Any:
        ledger.record_all("get", "d2h", "sync")
        return self._host.copy()

    def set(self, arr: Any) -> None:
        """Overwrite with a NumPy array of the same shape and dtype."""
        if not isinstance(arr, numpy.ndarray):
            raise TypeError(f"set() takes a NumPy array, found {type(arr).__name__}")
        if arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError(f"set(): {arr.dtype}{arr.shape} into {self.dtype}{self.shape}")
        ledger.record_all("set", "h2d")
        self._host[...] = arr

    def item(self, *index: int) -> Any:
        ledger.record_all("item", "sync")
        return self._host.item(*index)

    def tolist(self) -> Any:
        return self.get().tolist()

    def __float__(self) -> float:
        ledger.record_all("float()", "sync")
        return float(self._host)

    def __int__(self) -> int:
        ledger.record_all("int()", "sync")
        return int(self._host)

    def __bool__(self) -> bool:
        ledger.record_all("bool()", "sync")
        return bool(self._host)

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else str(self), spec)

    def __repr__(self) -> str:
        # No values: pytest and debuggers call repr() on their own, and must not change the counts.
        return f"<strict_cupy {self.dtype}{self.shape}>"

    # Views are free, copies are allocations.

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        shape = shape[0] if len(shape) == 1 else shape
        return _device("reshape", self._host.reshape(shape, order=order), [self])

    def transpose(self, *axes: Any) -> ndarray:
        axes = axes[0] if len(axes) == 1 else axes
        return _device("transpose", self._host.transpose(axes or None), [self])

    def ravel(self, order: str = "C") -> ndarray:
        return _device("ravel", self._host.ravel(order), [self])

    def view(self, dtype: Any) -> ndarray:
        return ndarray(self._host.view(dtype))

    def astype(self, dtype: Any, order: str = "K", *, copy: bool = True) -> ndarray:
        ledger.record("op", "astype")
        with numpy.errstate(all="ignore"):
            host = self._host.astype(dtype, order, copy=copy)
        return _device("astype", host, [self])

    def copy(self, order: str = "C") -> ndarray:
        ledger.record("op", "copy")
        return _device("copy", self._host.copy(order), [self])

    flatten = __copy__ = copy

    def __deepcopy__(self, memory: Any) -> ndarray:
        return self.copy()

    def fill(self, value: Any) -> None:
        ledger.record("op", "fill")
        self._host.fill(_operand("fill", value))

    def __getitem__(self, key: Any) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        index = _index(self, parts)
        if not any(isinstance(part, ndarray) for part in parts):
            # With an ellipsis NumPy gives a 0-d view, without one a scalar of its own.
            whole = index if any(part is ... for part in parts) else (*index, ...)
            return ndarray(self._host[whole])
        ledger.record("op", "getitem")
        if any(map(_is_mask, parts)):
            ledger.record("sync", "indexing with a mask")
        return _device("getitem", numpy.asarray(self._host[index]), [self])

    def __setitem__(self, key: Any, value: Any) -> None:
        parts = key if isinstance(key, tuple) else (key,)
        index = _index(self, parts)
        ledger.record("op", "setitem")
        if any(map(_is_mask, parts)):
            ledger.record("sync", "assignment through a mask")
        if any(isinstance(part, ndarray) and not _is_mask(part) for part in parts):
            hits = numpy.zeros(self.shape, dtype=numpy.int64)
            numpy.add.at(hits, index, 1)
            if hits.max(initial=0) > 1:
                raise ValueError("one place is assigned twice: which value stays is undefined")
        source = _operand("setitem", value)
        if isinstance(value, ndarray) and not numpy.can_cast(value.dtype, self.dtype, "same_kind"):
            raise TypeError(f"setitem: {value.dtype} does not fit into {self.dtype}")
        with numpy.errstate(all="ignore"):
            self._host[index] = source

    def __imatmul__(self, other: Any) -> Any:
        raise TypeError("CuPy has no @=: use matmul with out=")


def _is_mask(part: Any) -> bool:
    return isinstance(part, ndarray) and part.dtype == bool


def _index(array: ndarray, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """`parts` as NumPy takes them, with index arrays wrapped around as CuPy does."""

    def axes(part: Any) -> int:
        return 0 if part is None or part is ... else part.ndim if _is_mask(part) else 1

    index, axis = [], 0
    for part in parts:
        if isinstance(part, ndarray):
            wrap = not _is_mask(part) and array.shape[axis]
            index.append(part._host % wrap if wrap else part._host)
        elif part is None or part is ... or type(part) is int or isinstance(part, slice):
            index.append(part)
        else:
            raise TypeError(f"a device array can't be indexed by {type(part).__name__}")
        axis = (
            array.ndim - sum(map(axes, parts[len(index) :])) if part is ... else axis + axes(part)
        )
    return tuple(index)


def _operand(name: str, value: Any) -> Any:
    """What NumPy computes with in place of `value`: a device array or a Python number."""
    if isinstance(value, ndarray):
        return value._host
    if type(value) in (bool, int, float, complex):
        return value
    raise TypeError(f"{name} takes device arrays and Python numbers, found {type(value).__name__}")


def _device(name: str, result: Any, operands: list[ndarray]) -> Any:
    """`result` as device arrays: an allocation each, unless it is memory of an operand."""
    if isinstance(result, (tuple, list)):
        return type(result)(_device(name, part, operands) for part in result)
    if not isinstance(result, (numpy.ndarray, numpy.generic, bool, int, float)):
        return result
    host = numpy.asarray(result)
    for operand in operands:
        if host is operand._host:
            return operand
    if host.size and not any(numpy.may_share_memory(host, o._host) for o in operands):
        ledger.record("alloc", name)
    return ndarray(host)


def _write(name: str, result: Any, out: Any, casting: str = "same_kind") -> ndarray:
    """Leave `result` in `out`, under the rules for an output array."""
    if not isinstance(out, ndarray):
        raise TypeError(f"{name}: out must be a device array, found {type(out).__name__}")
    host = numpy.asarray(result)
    if host.shape != out.shape:
        raise ValueError(f"{name}: result is {host.shape}, out is {out.shape}")
    if not numpy.can_cast(host.dtype, out.dtype, casting):
        raise TypeError(f"{name}: {host.dtype} does not fit into {out.dtype} ({casting})")
    with numpy.errstate(all="ignore"):
        out._host[...] = host
    return out


class _Ufunc:
    """An elementwise function: operands by position, then `out`, `dtype` and `casting`."""

    def __init__(self, name: str, real: Any, host: Any) -> None:
        self.__name__, self.nin, self.nout, self._host = name, real.nin, real.nout, host

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: Any = None) -> Any:
        name = self.__name__
        if capture.calls is not None:
            later = partial(self, *args, out=out, dtype=dtype, casting=casting)
            return capture.keep(name, later, out)
        if len(args) not in (self.nin, self.nin + self.nout):
            raise TypeError(f"{name} takes {self.nin} operands, found {len(args)}")
        if args[self.nin :]:
            if out is not None:
                raise ValueError(f"{name}: out was given twice")
            out = args[self.nin :]
        hosts = [_operand(name, value) for value in args[: self.nin]]
        ledger.record("op", name)
        options = {"dtype": dtype, "casting": casting}
        with numpy.errstate(all="ignore"):
            result = self._host(*hosts, **{k: v for k, v in options.items() if v is not None})
        if out is None:
            return _device(name, result, [])
        outs = out if isinstance(out, tuple) else (out,)
        results = result if self.nout > 1 else (result,)
        if len(outs) != self.nout:
            raise ValueError(f"{name} gives {self.nout} arrays, out holds {len(outs)}")
        for array, part in zip(outs, results, strict=True):
            # Like NumPy's, a smaller result is broadcast into out.
            shape = getattr(array, "shape", None)
            part = numpy.broadcast_to(part, shape) if shape is not None else part
            _write(name, part, array, casting or "same_kind")
        return outs if self.nout > 1 else outs[0]


def _function(name: str, real: Callable[..., Any], host: Any) -> Callable[..., Any]:
    """`name` with the signature of CuPy's function and the values of NumPy's."""
    signature = inspect.signature(_matmul if name == "matmul" else real)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        if capture.calls is not None and name not in _ABOUT_ARRAYS:
            out = arguments.get("dst" if name == "copyto" else "out")
            return capture.keep(name, partial(call, *args, **kwargs), out)
        operands: list[ndarray] = []
        uploads = name in ("array", "asarray")
        hosts = {
            key: _strip(name, key, value, operands, uploads) for key, value in arguments.items()
        }
        out = arguments.get("out")
        hosts.pop("out", None)
        ledger.record("op", name)
        if uploads and not operands:
            ledger.record("h2d", name)
            hosts["copy"] = True
        if name in _WAITING or (name == "where" and len(arguments) == 1):
            ledger.record("sync", name)
        if name == "asnumpy":
            return operands[0].get()
        if out is not None and name in ("dot", "matmul", "take"):
            _check_exact(name, hosts, out)
        with numpy.errstate(all="ignore"):
            result = (
                _SPECIAL[name](**hosts) if name in _SPECIAL else _on_host(signature, host, hosts)
            )
        if name in _ABOUT_ARRAYS:
            return result
        return _device(name, result, operands) if out is None else _write(name, result, out)

    call.__name__ = name
    return call


def _strip(name: str, key: str, value: Any, operands: list[ndarray], uploads: bool) -> Any:
    """`value` with NumPy arrays in place of device arrays, which are added to `operands`."""
    if isinstance(value, ndarray):
        if key in _HOST_NUMBERS:
            raise TypeError(f"{name}: {key} must be of the host, found a device array")
        if key != "out":
            operands.append(value)
        return value._host
    if uploads and key in ("a", "obj"):
        if isinstance(value, (list, tuple)):
            return [_strip(name, key, part, operands, uploads) for part in value]
        return value
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        raise TypeError(f"{name}: {key} is of the host ({type(value).__name__}): use asarray")
    if key in _ARRAYS:
        raise TypeError(f"{name}: {key} must be a device array, found {type(value).__name__}")
    if isinstance(value, (list, tuple)):
        return type(value)(_strip(name, "", part, operands, uploads) for part in value)
    return value


def _check_exact(name: str, hosts: dict[str, Any], out: Any) -> None:
    """Products and `take` write into `out` directly: no conversion, no detour."""
    if not isinstance(out, ndarray):
        raise TypeError(f"{name}: out must be a device array, found {type(out).__name__}")
    first, second, *_ = hosts.values()
    expected = first.dtype if name == "take" else numpy.result_type(first, second)
    if out.dtype != expected:
        raise TypeError(f"{name}: result is {expected}, out is {out.dtype}")
    if name != "take" and not out.flags.c_contiguous:
        raise ValueError(f"{name}: out must be C-contiguous")
    if name != "take" and any(numpy.may_share_memory(out._host, o) for o in (first, second)):
        raise ValueError(f"{name}: out overlaps an operand")


@cache
def _parameters(function: Any) -> Any:
    return inspect.signature(function).parameters


def _on_host(signature: inspect.Signature, host: Any, hosts: dict[str, Any]) -> Any:
    """Call NumPy's function with arguments that are named and ordered as CuPy's."""
    known = _parameters(host)
    args: list[Any] = []
    kwargs = {}
    for key, value in hosts.items():
        parameter = signature.parameters[key]
        accepted = known.get("shape" if key == "newshape" else key)
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += value
        elif accepted is None and key == next(iter(signature.parameters)):
            args.append(value)  # the first is the same one, whatever it is called
        elif accepted is not None and accepted.kind is accepted.POSITIONAL_ONLY:
            args.append(value)
        elif accepted is not None and accepted.kind is not accepted.VAR_KEYWORD:
            kwargs[accepted.name] = value
        elif value is not parameter.default:
            raise TypeError(f"the double can't pass {key} on to numpy.{host.__name__}")
    return host(*args, **kwargs)


def _matmul(x1: Any, x2: Any, /, *, out: Any = None) -> Any:
    """The part of CuPy's `matmul` that the double has."""


def _empty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
    # Memory that was never written holds anything: here, what spoils every result.
    dtype = numpy.dtype(dtype)
    if dtype.kind in "iu":
        return numpy.full(shape, numpy.iinfo(dtype).max - 3, dtype, order)
    return numpy.full(shape, numpy.nan if dtype.kind in "fc" else True, dtype, order)


def _empty_like(prototype: Any, dtype: Any = None, order: str = "K", shape: Any = None) -> Any:
    like = numpy.empty_like(prototype, dtype, order, shape=shape)
    like[...] = _empty((), like.dtype)
    return like


def _take(a: Any, indices: Any, axis: int | None = None) -> Any:
    if numpy.asarray(indices).dtype.kind not in "iu":
        raise TypeError("take: indices must be integers")
    return numpy.take(a, indices, axis, mode="wrap")


def _argmax(a: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """CuPy gives any of several NaN: here, the last one, where NumPy gives the first."""
    a = numpy.asarray(a)
    found = numpy.argmax(a, axis, keepdims=keepdims)
    is_nan = numpy.isnan(a) if a.dtype.kind == "f" else numpy.zeros(a.shape, bool)
    last = (a.size if axis is None else a.shape[axis]) - 1
    from_the_end = numpy.argmax(numpy.flip(is_nan, axis), axis, keepdims=keepdims)
    return numpy.where(is_nan.any(axis, keepdims=keepdims), last - from_the_end, found)


def _as_strided(x: ndarray, shape: Any, strides: Any) -> ndarray:
    """A view; CuPy does not notice one that reaches beyond the memory of `x`, and this does."""
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    low, high = numpy.lib.array_utils.byte_bounds(x._host)
    if min(strides) < 0 or last + x.itemsize > high - low:
        raise AssertionError(f"as_strided reaches beyond an array of shape {x.shape}")
    view = numpy.lib.stride_tricks.as_strided(x._host, shape, strides)
    return _device("as_strided", view, [x])


_SPECIAL: dict[str, Callable[..., Any]] = {
    "argmax": _argmax,
    "empty": _empty,
    "empty_like": _empty_like,
    "take": _take,
}


class _Module(types.ModuleType):
    """A module of the double; its names are those of the real one, made when first used."""

    def __init__(self, name: str, real: Any, host: Any) -> None:
        super().__init__(name)
        self._real, self._host = real, host

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self._real, name):
            raise AttributeError(f"module {self._real.__name__!r} has no attribute {name!r}")
        real, host = getattr(self._real, name), getattr(self._host, name, None)
        if isinstance(real, type):
            if (real.__module__ or "").startswith("cupy"):
                raise AttributeError(f"the double runs no CUDA: it has no {name}")
            made: Any = real
        elif isinstance(real, types.ModuleType):
            if name not in ("linalg", "lib", "stride_tricks"):
                raise AttributeError(f"the double has no module {name}")
            made = _Module(f"{self.__name__}.{name}", real, host)
        elif not callable(real):
            made = real
        elif name == "as_strided":
            made = _as_strided
        elif host is None and name != "asnumpy":
            raise AttributeError(f"the double has no {name}: NumPy can't stand in for it")
        else:
            made = (_Ufunc if isinstance(real, cupy.ufunc) else _function)(name, real, host)
        setattr(self, name, made)
        return made


def _give_operators() -> None:
    def named(function: str, *, swap: bool = False, in_place: bool = False) -> Callable[..., Any]:
        def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
            if swap:
                return getattr(xp, function)(*args, self)
            if in_place:
                kwargs["out"] = self
            return getattr(xp, function)(self, *args, **kwargs)

        return call

    for method in _METHODS:
        setattr(ndarray, method, named(method))
    for name, function in (_OTHER | _BINARY).items():
        setattr(ndarray, f"__{name}__", named(function))
    for name, function in _BINARY.items():
        setattr(ndarray, f"__r{name}__", named(function, swap=True))
        if name != "matmul":
            setattr(ndarray, f"__i{name}__", named(function, in_place=True))


class Device:
    """A device; `current` has those that were made the current one, the last one last.

    All share their memory, but `ledger.devices` are those where something was done.
    """

    compute_capability = "90"

    def __init__(self, number: int | None = None) -> None:
        self.id = current[-1] if number is None else number

    def __enter__(self) -> Device:
        current.append(self.id)
        return self

    def __exit__(self, *_: Any) -> None:
        current.pop()

    def use(self) -> None:
        current[-1] = self.id


current = [0]

xp: Any = _Module("strict_cupy", cupy, numpy)
xp.ndarray = ndarray
_stream = types.SimpleNamespace(synchronize=lambda: ledger.record_all("synchronize", "sync"))
xp.cuda = types.SimpleNamespace(get_current_stream=lambda: _stream, Device=Device)
_give_operators()
add_array_module(ndarray, xp)
