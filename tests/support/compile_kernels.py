"""`python tests/support/compile_kernels.py`: every CUDA kernel × architecture, compiled without a
GPU.

NVRTC does it, the compiler that CuPy uses, from the wheel `nvidia-cuda-nvrtc`. A warning is an
error, registers that spill into memory included. Prints a table; leaves with 1 if anything fails.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import cuda_on_cpu
from cuda.bindings import nvrtc

from xpnet.accel import cuda_launch

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")

# What CuPy adds to our own options.
_OPTIONS = (*cuda_launch.OPTIONS, "-ftz=true", "--device-as-default-execution-space")
_SPILLS = "--ptxas-options=--warn-on-spills"


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of a source for one architecture."""

    architecture: str
    succeeded: bool
    log: str
    expressions: tuple[str, ...]
    """Those that there is machine code for."""


def compile_for(architecture: str, source: str, expressions: list[str]) -> Compiled:
    """All `expressions` of `source`, for `architecture`."""
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], []))
    try:
        for expression in expressions:
            _checked(nvrtc.nvrtcAddNameExpression(program, expression.encode()))
        options = [o.encode() for o in (*_OPTIONS, _SPILLS, f"-arch={architecture}")]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _room(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        text = log.rstrip(b"\0 \n").decode()
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            return Compiled(architecture, False, text or str(status), ())
        code = _room(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, code))
        made = tuple(
            expression
            for expression in expressions
            if b".text." + _checked(nvrtc.nvrtcGetLoweredName(program, expression.encode())) in code
        )
        return Compiled(architecture, True, text, made)
    finally:
        _checked(nvrtc.nvrtcDestroyProgram(program))


def _room(size: int) -> bytes:
    """A place that NVRTC may write to; of one byte Python has a single object for everybody."""
    return bytes(size + 1)


def _checked(answer: tuple[object, ...]) -> object:
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC: {status}")
    return values[0] if values else None


def main() -> int:
    wanted = cuda_on_cpu.expressions()
    version = ".".join(map(str, nvrtc.nvrtcVersion()[1:]))
    print(f"NVRTC {version}, {' '.join(_OPTIONS)}")
    done = {name: compile_for(name, cuda_launch.source(), wanted) for name in ARCHITECTURES}
    print(f"{'kernel × types':<34}" + "".join(f"{name:>8}" for name in done))
    for name, kernel in cuda_on_cpu.declared().items():
        own = kernel.expressions()
        made = [len(set(own) & set(result.expressions)) for result in done.values()]
        print(f"{name + ' × ' + str(len(own)):<34}" + "".join(f"{count:>8}" for count in made))
    failed = [made for made in done.values() if made.log or list(made.expressions) != wanted]
    for result in failed:
        print(f"\n{result.architecture}: {result.log}", file=sys.stderr)
    total = sum(len(result.expressions) for result in done.values())
    print(f"{total} compiled, {len(failed)} of {len(done)} architectures with errors or warnings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
