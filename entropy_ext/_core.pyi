from typing_extensions import Buffer

isa: str
max_leading_dims: int
cuda_architectures: str | None

def token_stats_forward(
    *,
    dtype: int,
    logits: int,
    sizes: list[int],
    strides: list[int],
    rows: int,
    vocab: int,
    tokens: int,
    temperature: int,
    temperature_stride: int,
    mask: int,
    logp: int,
    entropy: int,
    lse: int,
    row_max: int,
    row_sum: int,
    extras: int,
    scratch: int,
    threads: int,
    cuda: bool,
    stream: int,
) -> int: ...
def token_stats_backward(
    *,
    dtype: int,
    logits: int,
    sizes: list[int],
    strides: list[int],
    rows: int,
    vocab: int,
    tokens: int,
    temperature: int,
    temperature_stride: int,
    mask: int,
    entropy: int,
    row_max: int,
    row_sum: int,
    grad_logp: int,
    grad_entropy: int,
    grad_lse: int,
    grad_logits: int,
    threads: int,
    cuda: bool,
    stream: int,
) -> None: ...
def support_forward(
    *,
    dtype: int,
    logits: int,
    sizes: list[int],
    strides: list[int],
    rows: int,
    vocab: int,
    tokens: int,
    temperature: int,
    temperature_stride: int,
    mask: int,
    offsets: int,
    ids: int,
    count: int,
    stats: int,
    threads: int,
    cuda: bool,
    stream: int,
) -> int: ...
def support_backward(
    *,
    dtype: int,
    logits: int,
    sizes: list[int],
    strides: list[int],
    rows: int,
    vocab: int,
    tokens: int,
    temperature: int,
    temperature_stride: int,
    mask: int,
    entropy: int,
    row_max: int,
    row_sum: int,
    grad_logp: int,
    grad_entropy: int,
    grad_lse: int,
    grad_logits: int,
    offsets: int,
    ids: int,
    count: int,
    stats: int,
    grad_stats: int,
    threads: int,
    cuda: bool,
    stream: int,
) -> int: ...
def forward_scratch_bytes(*, dtype: int, rows: int, vocab: int, device: int) -> int: ...

class GradientMemory(Buffer):
    """Linux only: a writable buffer, in memory that the last one of its size left."""

    def __init__(self, *, bytes: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
