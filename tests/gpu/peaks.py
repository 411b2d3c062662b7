"""What the device reaches at best, so that no table of devices is needed."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu.checks import Bench, Check, Row, measured


def rows(bench: Bench) -> Iterator[Row]:
    """The bandwidth of a copy, and the rate of products of matrices in float32 (without TF32) and bf16."""
    size = 2**24 if bench.tiny else 2**30
    source = torch.empty(size, dtype=torch.uint8, device=bench.device).fill_(1)
    target = torch.empty_like(source)
    bandwidth = 2 * size / bench.seconds_of_many(lambda: target.copy_(source))
    bench.kept["bytes_per_second"] = bandwidth
    yield measured(f"a copy of {size / 2**20:.0f} MiB", f"{bandwidth / 1e9:.0f} GB/s, read and written", bytes_per_second=bandwidth)
    side = 512 if bench.tiny else 8192
    for dtype, name in ((torch.float32, "flops_per_second"), (torch.bfloat16, "bf16_flops_per_second")):
        a, b = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        rate = 2 * side**3 / bench.seconds_of_many(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
        bench.kept[name] = rate
        yield measured(f"a product of {side}x{side} matrices, {str(dtype).removeprefix('torch.')}", f"{rate / 1e12:.3g} TFLOP/s", **{name: rate})
    once = bench.seconds_of_many(lambda: torch.empty(1, device=bench.device).fill_(0.0), at_least=0.05, most=2000)
    bench.kept["seconds_per_launch"] = once
    yield measured("a launch of the smallest kernel", f"{once * 1e6:.1f} µs", seconds_per_launch=once)


CHECK = Check("peaks", "What bandwidth and rate of products does the device reach at best?", 15, rows)
