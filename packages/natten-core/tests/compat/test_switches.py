"""NATTEN's switches and questions, its test decorators, loggers and FLOP counts."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import unittest
from types import ModuleType

import pytest
import torch

FVCORE = pytest.mark.skipif(importlib.util.find_spec("fvcore") is None, reason="needs fvcore")
V017 = pytest.mark.parametrize("natten", ["0.17"], indirect=True)


@V017
def test_switches_remember(natten: ModuleType) -> None:
    for use, asked, default in (
        (natten.use_fused_na, natten.is_fused_na_enabled, False),
        (natten.use_fna, natten.is_fna_enabled, False),
        (natten.use_kv_parallelism_in_fused_na, natten.is_kv_parallelism_in_fused_na_enabled, False),
        (natten.use_deterministic_algorithms, natten.are_deterministic_algorithms_enabled, False),
        (natten.use_tiled_na, natten.is_tiled_na_enabled, True),
        (natten.use_gemm_na, natten.is_gemm_na_enabled, True),
        (natten.use_tf32_in_gemm_na, natten.is_tf32_in_gemm_na_enabled, False),
    ):
        assert asked() is default
        use()
        assert asked() is True
        use(False)
        assert asked() is False
        use(default)
        natten.context.NattenContext.reset()
    for what in ("tiled_na", "gemm_na", "tf32"):
        assert getattr(natten, f"disable_{what}")() is False
        assert getattr(natten, f"enable_{what}")() is True
    natten.disable_tf32()


@V017
def test_memory_preference(natten: ModuleType) -> None:
    assert natten.is_memory_usage_default()
    natten.set_memory_usage_preference("unrestricted")
    assert natten.is_memory_usage_unrestricted()
    assert natten.get_memory_usage_preference() is natten.context.MemoryUsagePreference.Unrestricted
    natten.set_memory_usage_preference("strict")
    assert natten.is_memory_usage_strict()
    natten.context.NattenContext.reset()
    assert natten.is_memory_usage_default()
    with pytest.raises(ValueError, match=r"pref must be one of \['default', 'strict', 'unrestricted'\], got 'more'"):
        natten.set_memory_usage_preference("more")


@V017
def test_autotuner(natten: ModuleType) -> None:
    assert not natten.is_autotuner_enabled()
    natten.use_autotuner(True, thorough_mode_backward=True, warmup_steps_forward=1, steps_forward=1)
    assert natten.is_autotuner_enabled()
    assert natten.is_autotuner_enabled_for_forward()
    assert not natten.is_autotuner_enabled_for_backward()
    assert natten.is_autotuner_thorough_for_backward()
    assert not natten.is_autotuner_thorough_for_forward()
    natten.use_autotuner(False, False, False, False)
    assert not natten.is_autotuner_enabled()
    natten.use_autotuner(backward_pass=True)
    assert natten.is_autotuner_enabled_for_backward()
    natten.disable_autotuner()
    assert not natten.is_autotuner_enabled()
    natten.use_autotuner(True)
    natten.context.AutotunerContext.reset()
    assert not natten.is_autotuner_enabled()


@V017
def test_determinism(natten: ModuleType) -> None:
    natten.use_deterministic_algorithms()
    with pytest.raises(RuntimeError, match="KV parallelism is not deterministic"):
        natten.use_kv_parallelism_in_fused_na()
    with pytest.raises(RuntimeError, match="auto-tuning is not deterministic"):
        natten.use_autotuner(True)
    natten.use_deterministic_algorithms(False)
    torch.use_deterministic_algorithms(True)
    try:
        natten.use_kv_parallelism_in_fused_na()
        natten.use_autotuner(True)
        natten.use_fused_na()
    finally:
        torch.use_deterministic_algorithms(False)
    assert not natten.is_kv_parallelism_in_fused_na_enabled()
    assert not natten.is_autotuner_enabled()
    assert natten.is_fused_na_enabled()


@V017
def test_flex(natten: ModuleType) -> None:
    natten.force_flex_attention()
    assert natten.context.NattenContext.force_flex_attention
    natten.use_flex_attention()
    assert not natten.context.NattenContext.force_flex_attention
    assert natten.context.NattenContext.use_flex_attention
    natten.use_fused_na(False)
    assert not natten.context.NattenContext.use_flex_attention


@pytest.mark.parametrize("natten", ["0.21"], indirect=True)
def test_flex_compilation(natten: ModuleType) -> None:
    assert not natten.is_flex_compile_allowed()
    natten.allow_flex_compile(backprop=True)
    assert natten.is_flex_compile_allowed()
    assert natten.is_flex_compile_backprop_allowed()
    natten.disable_flex_compile_backprop()
    assert natten.is_flex_compile_allowed()
    assert not natten.is_flex_compile_backprop_allowed()
    natten.allow_flex_compile_backprop()
    assert natten.is_flex_compile_backprop_allowed()
    natten.disable_flex_compile()
    assert not natten.is_flex_compile_allowed()
    assert not natten.is_flex_compile_backprop_allowed()


@pytest.mark.parametrize("natten", ["0.15", "0.17"], indirect=True)
def test_questions(natten: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = importlib.import_module("natten_core.compat.capabilities")
    for gpu, kernels, capability, expected in (
        (False, ["90"], (9, 0), (False, False, False)),
        (True, [], (9, 0), (False, False, False)),
        (True, ["75"], (7, 5), (True, True, False)),
        (True, ["90"], (9, 0), (True, True, True)),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None, found=capability: found)
        monkeypatch.setattr(capabilities, "build_info", lambda kernels=kernels: {"cuda_architectures": kernels})
        assert (natten.has_cuda(), natten.has_half(), natten.has_bfloat(0)) == expected
    for name in ("has_gemm", "has_tf32_gemm", "has_fp32_gemm", "has_fp64_gemm"):
        assert getattr(natten, name)() is False
    if hasattr(natten, "has_fna"):
        assert natten.has_fna() is natten.has_fused_na() is True


@V017
def test_decorators(natten: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = natten.utils.testing

    class Test(unittest.TestCase):
        @testing.skip_if_nested_is_not_supported()
        def test_runs(self) -> None:
            assert True

        @testing.skip_if_gemm_is_not_supported()
        def test_skips(self) -> None:
            raise AssertionError("natten-core has no GEMM-based kernels")

        @testing.skip_if_cuda_is_not_supported()
        def test_on_a_gpu(self) -> None:
            raise AssertionError("reached")

    def outcomes() -> list[int]:
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Test).run(result)
        return [result.testsRun, len(result.skipped), len(result.failures)]

    capabilities = importlib.import_module("natten_core.compat.capabilities")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert outcomes() == [3, 2, 0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(capabilities, "build_info", lambda: {"cuda_architectures": ["90"]})
    assert outcomes() == [3, 1, 1]
    assert testing.fna_supports_additional_kv()
    assert testing.fna_supports_additional_kv(40)


@V017
def test_arguments_per_axis(natten: ModuleType) -> None:
    utils = natten.utils
    assert utils.check_all_args(2, [3, 5], None, True) == ((3, 5), (1, 1), (True, True))
    assert utils.check_all_args(3, 7, (1, 2, 3), None) == ((7, 7, 7), (1, 2, 3), (False, False, False))
    assert utils.check_input_size_arg(1, 9) == (9,)
    assert utils.get_num_na_weights((3, 5, 7)) == 105
    for call in (
        lambda: utils.check_kernel_size_arg(2, (3,)),
        lambda: utils.check_dilation_arg(2, 1.5),
        lambda: utils.check_causal_arg(1, (1,)),
        lambda: utils.get_num_na_weights([3, 5]),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()


@V017
def test_log_level(natten: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, level in (("CRITICAL", logging.CRITICAL), ("debug", logging.DEBUG), ("loud", logging.INFO)):
        monkeypatch.setenv("NATTEN_LOG_LEVEL", given)
        assert natten.utils.log.get_logger(f"natten.test.{given}").level == level
    monkeypatch.delenv("NATTEN_LOG_LEVEL")
    assert natten.utils.log.get_logger("natten.test").level == logging.INFO


MACS = [((4, 128), (5,), (2,), (False,)), ((1, 16, 10), (5, 3), (2, 1), (False, False))]
MACS.append(((1, 6, 5, 8), (5, 3, 7), (1, 1, 1), (True, False, False)))


@pytest.mark.parametrize(("shape", "kernel_size", "dilation", "is_causal"), MACS, ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("biased", [False, True])
@V017
@FVCORE
def test_macs(
    natten: ModuleType,
    shape: tuple[int, ...],
    kernel_size: tuple[int, ...],
    dilation: tuple[int, ...],
    is_causal: tuple[bool, ...],
    biased: bool,
) -> None:
    kind = getattr(natten, f"NeighborhoodAttention{len(kernel_size)}D")
    module = kind(32, 2, kernel_size, dilation, is_causal, rel_pos_bias=biased)
    tokens = math.prod(shape)
    expected = tokens * 32 * (4 * 32 + 2 * math.prod(kernel_size))
    assert natten.flops.get_flops(module, torch.randn(*shape, 32), disable_warnings=True) == expected


class TwoStages(torch.nn.Module):
    """As clients write it."""

    def __init__(self, functional: ModuleType) -> None:
        super().__init__()
        self.functional = functional
        self.rpb = torch.nn.Parameter(torch.zeros(2, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.functional.natten2dqkrpb(x, x, self.rpb, 3, 2).softmax(-1)
        found: torch.Tensor = self.functional.natten2dav(weights, x, 3, 2)
        return found


@FVCORE
@pytest.mark.parametrize(("natten", "additions"), [("0.14", 1), ("0.15", 1), ("0.17", 0)], indirect=["natten"])
def test_macs_of_two_stages(natten: ModuleType, additions: int) -> None:
    counted = natten.flops.get_flops(TwoStages(natten.functional), torch.randn(1, 2, 6, 7, 8), disable_warnings=True)
    assert counted == 2 * 6 * 7 * 9 * (8 + 8 + additions)


@V017
@FVCORE
def test_macs_of_the_fused_operator(natten: ModuleType) -> None:
    class Fused(torch.nn.Module):
        def forward(self, query: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = natten.functional.na2d(
                query, query, query, 3, additional_keys=more, additional_values=more
            )
            return found

    inputs = torch.randn(1, 6, 7, 2, 8), torch.randn(1, 5, 2, 8)
    counted = natten.flops.get_flops(Fused(), inputs, disable_warnings=True)
    assert counted == 2 * 6 * 7 * (9 + 5) * 2 * 8
