"""What vLLM is started with: settings in, environment and engine arguments out.

The flags that only the CPU needs, each for a measured reason: eager execution (a compile takes 20 s of a start and
gives a fifth more tokens a second: engine.args.enforce_eager = false is for runs of hours), no chunked prefill
(seeded requests crash with it there), prefix-cache blocks of 32 tokens (the default of 128 is longer than most
prompts), a cache size in bytes (the default takes most of the machine), an explicit number of threads.
"""

import os
from typing import Any

from schemas.settings import EngineSection

CPU_MAX_LEN = 2048
"""A prompt and response longer than this is not a job for a CPU; engine.max_model_len overrides it."""

SMALL = 20_000_000
"""Parameters up to which float32 costs little on a CPU: at 2M, 64 sequences, one thread 3,400 tok/s against 4,400 in
bfloat16, and log-probs within 1e-5 nats of the trainer's instead of 0.03 on average."""


def prepare_environment(threads: int, *, cuda: bool, eager: bool = True) -> None:
    """Set what vLLM and OpenMP read from the environment. Before vllm is imported; torch may be.

    Args:
        threads: of OpenMP, on a CPU.
        cuda: whether there is a GPU.
        eager: whether the model is not compiled, on a CPU.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in (
        ("VLLM_LOGGING_LEVEL", "ERROR"),
        ("VLLM_CONFIGURE_LOGGING", "1"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("VLLM_HOST_IP", "127.0.0.1"),  # an engine in this process is on one machine: it listens to nobody else
        ("GLOO_SOCKET_IFNAME", "lo"),
    ):
        os.environ.setdefault(name, value)
    if not cuda:
        if eager:
            # vLLM compiles small helpers all the same: 3 to 17 s of the first step, for nothing measurable afterwards.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def _config(path: str) -> Any:  # noqa: ANN401 - a transformers config
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(path)


def max_model_len(path: str, engine: EngineSection, *, cuda: bool) -> int:
    """Positions (prompt + response): the setting, or what the model's config says, on a CPU at most CPU_MAX_LEN."""
    if engine.max_model_len:
        return engine.max_model_len
    positions = int(_config(path).max_position_embeddings)
    return positions if cuda else min(positions, CPU_MAX_LEN)


def cpu_dtype(path: str, dtype: str) -> str:
    """The number format on a CPU: 'auto' is float32 up to SMALL parameters (exact, nearly as fast), else bfloat16."""
    if dtype != "auto":
        return dtype
    config = _config(path)
    layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    small = config.num_hidden_layers * layer + config.vocab_size * config.hidden_size <= SMALL
    return "float32" if small else "bfloat16"


def engine_args(path: str, engine: EngineSection, seed: int, *, cuda: bool, statistics: bool = False) -> dict[str, Any]:
    """Keyword arguments of vllm.EngineArgs; engine.args wins over everything but the log-probs' mode.

    Processed log-probs are those of the distribution that was sampled from: the importance ratio needs just these.
    Statistics are vLLM's own metrics, which it gives to Prometheus' registry of the process.
    """
    length = max_model_len(path, engine, cuda=cuda)
    args: dict[str, Any] = {
        "model": path,
        "tokenizer": path,
        "dtype": engine.dtype,
        "seed": seed % 2**32,
        "max_model_len": length,
        "max_num_seqs": engine.max_num_seqs,
        "enable_prefix_caching": True,
        "disable_log_stats": not statistics,
        "use_tqdm_on_load": False,
    }
    if not cuda:
        args |= {
            "dtype": cpu_dtype(path, engine.dtype),
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(length, 4096),
            "block_size": 32,
            "kv_cache_memory_bytes": int(engine.kv_cache_gb * 2**30),
        }
    return args | engine.args | {"logprobs_mode": "processed_logprobs"}
