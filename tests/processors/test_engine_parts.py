"""What surrounds the engine, without one: arguments, environment, the probe, and whether weights fit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine_parts import announced, corrupt, make_model
from hypothesis import given
from hypothesis import strategies as st

from processors.engine_args import CPU_MAX_LEN, cpu_dtype, engine_args, max_model_len
from processors.fits import check_fit
from processors.policy import ProbeFailed, UnknownWeights
from processors.probe import check, probe_ids
from schemas.messages import Weights
from schemas.settings import EngineSection


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("parts") / "model", seed=1, positions=4096)


def weights(logprobs: list[float]) -> Weights:
    ids = list(range(len(logprobs) + 1))
    return Weights(
        policy="p", version=3, parent=2, path="/x", sha256="s", trainer="sft", probe_ids=ids, probe_logprobs=logprobs
    )


def test_the_cpu_flags_are_for_the_cpu_only(model: Path) -> None:
    on_cpu = engine_args(str(model), EngineSection(kv_cache_gb=0.5), 0, cuda=False)
    on_gpu = engine_args(str(model), EngineSection(kv_cache_gb=0.5), 0, cuda=True)
    only_cpu = {"enforce_eager", "enable_chunked_prefill", "max_num_batched_tokens", "block_size"}
    assert set(on_cpu) - set(on_gpu) == only_cpu | {"kv_cache_memory_bytes"}
    assert on_cpu["kv_cache_memory_bytes"] == 2**29
    assert (on_cpu["dtype"], on_gpu["dtype"]) == ("float32", "auto")


def test_vllm_keeps_statistics_only_where_somebody_may_read_them(model: Path) -> None:
    assert engine_args(str(model), EngineSection(), 0, cuda=False)["disable_log_stats"]
    assert not engine_args(str(model), EngineSection(), 0, cuda=False, statistics=True)["disable_log_stats"]
    own = EngineSection(args={"disable_log_stats": True})
    assert engine_args(str(model), own, 0, cuda=False, statistics=True)["disable_log_stats"]


def test_other_engine_arguments_pass_through_but_not_the_kind_of_log_probs(model: Path) -> None:
    wanted = {"tensor_parallel_size": 2, "block_size": 64, "logprobs_mode": "raw_logprobs"}
    args = engine_args(str(model), EngineSection(args=wanted), 0, cuda=False)
    assert (args["tensor_parallel_size"], args["block_size"]) == (2, 64)
    assert args["logprobs_mode"] == "processed_logprobs"


def test_positions_come_from_the_setting_the_config_or_the_cap(model: Path) -> None:
    assert max_model_len(str(model), EngineSection(), cuda=True) == 4096
    assert max_model_len(str(model), EngineSection(), cuda=False) == CPU_MAX_LEN
    assert max_model_len(str(model), EngineSection(max_model_len=300), cuda=False) == 300


def test_a_stated_number_format_is_kept_and_auto_is_exact_for_small_models(model: Path) -> None:
    assert cpu_dtype(str(model), "bfloat16") == "bfloat16"
    assert cpu_dtype(str(model), "auto") == "float32"


def test_threads_are_set_for_openmp_and_vllm_stays_in_this_process() -> None:
    program = (
        "import os; from processors.engine_args import prepare_environment as p; p(3, cuda=False);"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['VLLM_ENABLE_V1_MULTIPROCESSING'])"
    )
    clean = {k: v for k, v in os.environ.items() if "NUM_THREADS" not in k}
    result = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["3", "0"]


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=50), st.floats(-0.3, 0.3))
def test_the_probe_passes_within_its_tolerance_and_only_there(logprobs: list[float], shift: float) -> None:
    ours = [value + shift for value in logprobs]
    if abs(shift) > 0.101:
        with pytest.raises(ProbeFailed, match=r"v3.*old weights stay"):
            check(weights(logprobs), ours, 0.1)
    elif abs(shift) < 0.099:
        assert check(weights(logprobs), ours, 0.1) == pytest.approx(abs(shift), abs=1e-9)


def test_a_probe_that_says_nothing_passes_nothing() -> None:
    with pytest.raises(ProbeFailed):
        check(weights([-1.0]), [float("nan")], 0.1)
    with pytest.raises(ProbeFailed):
        check(weights([-1.0, -2.0]), [], 0.1)
    with pytest.raises(ProbeFailed):
        check(weights([-1.0]), [-1.0, -1.0], 0.1)


def test_a_long_probe_is_cut_to_what_the_engine_can_score() -> None:
    long = weights([-1.0] * 30)
    assert probe_ids(long, 100) == long.probe_ids
    ids = probe_ids(long, 11)
    assert ids == long.probe_ids[:10]
    assert check(long, [-1.0] * (len(ids) - 1), 0.01) == 0
    assert probe_ids(weights([]), 100) == []
    assert probe_ids(long, 2) == []


def test_weights_fit_when_every_tensor_has_its_shape(model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=2)
    check_fit(str(other), str(model))
    check_fit("some/hub-name", str(model))
    with pytest.raises(ProbeFailed, match=r"down_proj\.weight is \(64, 184\), the model's is \(64, 192\)"):
        check_fit(str(corrupt(model, tmp_path / "corrupt")), str(model))
    with pytest.raises(ProbeFailed, match=r"model\.layers\.1\..* is missing"):
        check_fit(str(make_model(tmp_path / "shallow", seed=1, layers=1)), str(model))
    with pytest.raises(UnknownWeights):
        check_fit(str(tmp_path / "nothing"), str(model))


@given(share=st.floats(0, 0.999))
def test_a_file_cut_anywhere_is_refused(model: Path, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    short = tmp_path_factory.mktemp("short")
    data = (model / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ProbeFailed, match="cannot be read"):
        check_fit(str(short), str(model))


def test_one_sha_is_one_file(model: Path, tmp_path: Path) -> None:
    assert announced(model, 0).sha256 != announced(make_model(tmp_path / "b", seed=9), 1).sha256
