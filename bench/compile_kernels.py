"""Compile every kernel for GPUs that need not be present, and count register spills.

    python bench/compile_kernels.py                 # all targets, a table, exit 1 on a spill
    python bench/compile_kernels.py --target sm_90  # one of sm_80, sm_90, sm_100, gfx942

The operations are called as the sampler calls them; their launches are recorded and compiled ahead
of time instead of run. So the check covers what ships: these kernels with these block sizes and
warps.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from sjd2.kernels import Noise, Rules, Shifts, Verdict, Window, tiles
from sjd2.kernels import triton as kernels

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}


@dataclass
class Launch:
    """A kernel and the arguments of one launch."""

    label: str
    kernel: JITFunction[Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass
class Compiled:
    """The resources of a compiled launch."""

    registers: int  # per thread
    shared: int  # bytes per block
    spills: int  # bytes per thread, or spilled registers on AMD


def recorded(label: str, call: Callable[[], object]) -> list[Launch]:
    """The launches of an operation."""
    launches: list[Launch] = []

    def record(self: JITFunction[Any], *arguments: Any, grid: Any, warmup: bool, **options: Any):
        launches.append(Launch(label, self, arguments, options))

    original = JITFunction.run
    JITFunction.run = record
    try:
        call()
    finally:
        JITFunction.run = original
    return launches


def launches() -> Iterator[Launch]:
    """Every kernel in every shipped launch configuration."""
    plain = Rules()
    for vocab in (512, 4096, 16384, 32768, 65536):
        for rules in (
            plain,
            replace(plain, guidance_scale=3.0, top_k=2000, coupling="independent", start="uniform"),
            replace(plain, guidance_scale=3.0, top_k=100, top_p=0.9),
            replace(plain, guidance_scale=3.0, verify="gumbel", start="repeat"),
        ):
            said = f"V={vocab} {rules.verify if rules.verify != 'ratio' else rules.coupling}"
            for name in ("guidance_scale", "top_k", "top_p"):
                if getattr(rules, name) != getattr(plain, name):
                    said += f" {name.split('_')[0] if name == 'guidance_scale' else name}"
            yield from _verify(said, vocab, rules, grammar=rules.top_p < 1)
    guided = replace(plain, guidance_scale=3.0)
    yield from _correct("V=16384 guidance", 16384, guided, grammar=True)
    yield from _correct("V=512 gumbel", 512, replace(guided, verify="gumbel"), grammar=False)
    rows, heads, slots, size = 4, 8, 96, 128
    cache = torch.zeros(rows, heads, 512, size, dtype=torch.bfloat16)
    new = torch.zeros(rows, slots, heads, size, dtype=torch.bfloat16).transpose(1, 2)
    lengths, rows_kept = torch.zeros(rows, dtype=torch.int64), torch.arange(2)
    yield from recorded("bf16", lambda: kernels.kv_append(cache, cache, new, new, lengths))
    yield from recorded("", lambda: kernels.kv_truncate(lengths, lengths))
    yield from recorded("bf16", lambda: kernels.kv_compact(cache, rows_kept, lengths))
    window = _window(rows, slots, 16384, 1)
    verdict = Verdict(lengths, lengths, window.tokens.contiguous(), window)
    pictures = torch.zeros(rows, 1024, dtype=torch.int64)
    yield from recorded("W=96", lambda: kernels.commit_window(verdict, lengths, pictures, lengths))
    for dtype in (torch.float32, torch.bfloat16):
        yield from _embed(dtype, window.fed)


def _embed(dtype: torch.dtype, tokens: Tensor) -> Iterator[Launch]:
    table, level = torch.zeros(64, 4096, dtype=dtype), torch.zeros(tokens.shape)
    mean, time = torch.zeros(4096), torch.zeros(*tokens.shape, 4096, dtype=dtype)
    where = torch.zeros(len(tokens), dtype=torch.int64)
    noise = {"timestep": level, "mean": mean, "std": mean, "time_embedding": time}
    name = TYPES[dtype]
    yield from recorded(f"{name} clean", lambda: kernels.noisy_embed(tokens, table))
    yield from recorded(
        f"{name} noisy",
        lambda: kernels.noisy_embed(tokens, table, seed=where, position=where, copies=2, **noise),
    )
    yield from recorded(name, lambda: kernels.denoise_step(time, time, level, level))
    steps, most = torch.zeros_like(tokens), torch.zeros(tokens.shape[1], dtype=torch.int64)
    made_of = Noise(torch.zeros(5), most, mean, mean, torch.zeros(5, 4096))
    at = {"accept_length": where, "seed": where, "position": where, "grammar": where}
    yield from recorded(
        name, lambda: kernels.denoise_window(time, steps, tokens, made_of, table, **at)
    )
    yield from recorded(
        name, lambda: kernels.embed_window(tokens, time, steps, made_of, table, copies=2)
    )


def _verify(
    label: str, vocab: int, rules: Rules, grammar: bool, window: Window | None = None
) -> list[Launch]:
    images, width = 2, 96
    copies = 2 if rules.guidance_scale != 1 else 1
    logits = torch.zeros(copies * images, width, vocab, dtype=torch.bfloat16)
    where = torch.zeros(images, dtype=torch.int64)
    return recorded(
        label,
        lambda: kernels.verify_window(
            logits,
            window or _window(images, width, vocab, copies),
            rules,
            seed=where,
            position=where,
            iteration=7,
            length=576,
            grammar=torch.full((576,), -1) if grammar else None,
            noisy=torch.zeros(images, width, dtype=torch.bool) if grammar else None,
        ),
    )


def _correct(label: str, vocab: int, rules: Rules, grammar: bool) -> Iterator[Launch]:
    images, width, rank = 2, 96, 192
    scored = _window(images, width, vocab, 2 if rules.guidance_scale != 1 else 1)
    corrected_logits = torch.zeros(images, width, vocab)
    state, tokens = torch.zeros(images, width, rank), torch.zeros(images, 672).long()
    features, output = torch.zeros(8 * (vocab + 1), rank), torch.zeros(vocab, rank)
    shifts = Shifts(features, torch.arange(1, 9), output)
    where = torch.zeros(images, dtype=torch.int64)
    forced = torch.full((576,), -1) if grammar else None
    yield from recorded(
        label,
        lambda: kernels.activate_window(state, tokens, shifts, position=where, grammar=forced),
    )
    inner = (state, state, tokens, shifts, rules)
    at = {"seed": where, "position": where, "iteration": 7, "grammar": forced}
    corrected = scored._replace(draft_logits=corrected_logits, is_processed=True)
    for window in (scored, corrected):
        again = partial(kernels.correct_window, window, scored, *inner, correction=1, **at)
        yield from recorded(f"{label} {'again' if window.is_processed else ''}", again)
    # The verification that comes next reads a corrected distribution.
    yield from _verify(f"{label} corrected", vocab, rules, grammar, corrected)


def _window(images: int, width: int, vocab: int, copies: int) -> Window:
    return Window(
        torch.zeros(images, width + 1, dtype=torch.int64),
        torch.zeros(images, width, dtype=torch.uint8),
        torch.zeros(copies * images, width, vocab, dtype=torch.bfloat16),
        torch.zeros(images, dtype=torch.int64),
        torch.zeros(images, width, 3),
    )


def compile_for(target: GPUTarget, launch_: Launch) -> Compiled:
    """One launch, compiled as the runtime would."""
    kernel, options = launch_.kernel, dict(launch_.options)
    given = dict(zip(kernel.arg_names, launch_.arguments, strict=False))
    given |= {name: options.pop(name) for name in kernel.arg_names if name in options}
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        value, parameter = given[name], kernel.params[index]
        signature[name] = _type_of(value)
        if parameter.is_constexpr or (
            isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        ):
            signature[name], constants[(index,)] = "constexpr", value
        elif isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=target, options=options)
    if target.backend == "cuda":
        return _of_cubin(compiled.asm["cubin"], compiled.metadata.shared)
    return _of_amd(compiled.asm["amdgcn"], compiled.metadata.shared)


def _type_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + TYPES[value.dtype]
    return {bool: "i1", int: "i32", float: "fp32"}[type(value)]


def _of_cubin(cubin: bytes, shared: int) -> Compiled:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return Compiled(numbers["REG"], shared, numbers["STACK"] + numbers["LOCAL"])


def _of_amd(assembly: str, shared: int) -> Compiled:
    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        assert found, f"no {name} in the assembly"
        return int(found[1])

    spills = number("vgpr_spill_count") + number("sgpr_spill_count")
    return Compiled(number("vgpr_count"), shared, spills)


def table_of(name: str) -> tuple[list[str], int]:
    """The lines of a target, and how many of its launches spill."""
    # The launch code then chooses the warps of that GPU.
    tiles.WARP_SIZE = TARGETS[name].warp_size
    lines, spilling = [], 0
    for one in launches():
        needs = compile_for(TARGETS[name], one)
        spilling += needs.spills > 0
        kernel = one.kernel.__name__.removesuffix("_kernel")
        lines.append(
            f"{kernel:<16} {one.label:<40} {name:<7} {one.options.get('num_warps', 4):>5}  "
            f"{needs.registers:>9}  {needs.shared:>6}  {needs.spills:>6}"
        )
    return lines, spilling


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=TARGETS, action="append")
    given = parser.parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")
    spilling = 0
    print(f"{'kernel':<16} {'launch':<40} {'target':<7} warps  registers  shared  spills")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for lines, spills in pool.map(table_of, given.target or TARGETS):
            print(*lines, sep="\n", flush=True)
            spilling += spills
    print(f"{spilling} launches spill")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
