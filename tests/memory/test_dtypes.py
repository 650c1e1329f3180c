import pytest
import torch

from limner.memory import DefaultSettings
from limner.memory.devices import Capabilities
from limner.memory.dtypes import Precision, text_precision, unet_precision, vae_precision

OLD_CPU, NEW_CPU = Capabilities("cpu", bf16=False, fp16=False), Capabilities("cpu", bf16=True, fp16=False)
GPU, OLD_GPU = Capabilities("cuda", bf16=True, fp16=True), Capabilities("cuda", bf16=False, fp16=True)
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(("device", "dtype"), [(OLD_CPU, F32), (NEW_CPU, BF16), (GPU, F16), (OLD_GPU, F16)])
def test_a_diffusion_model_takes_the_first_dtype_that_the_device_is_good_at(device, dtype):
    assert unet_precision(DefaultSettings(), device) == Precision(dtype, dtype)


def test_a_family_without_float16_takes_bfloat16():
    assert unet_precision(DefaultSettings(), GPU, (BF16, F32)) == Precision(BF16, BF16)
    assert unet_precision(DefaultSettings(), OLD_GPU, (BF16, F32)) == Precision(F32, F32)


@pytest.mark.parametrize(("device", "dtype"), [(OLD_CPU, F32), (NEW_CPU, BF16), (GPU, BF16), (OLD_GPU, F32)])
def test_an_autoencoder_never_takes_float16_by_itself(device, dtype):
    assert vae_precision(DefaultSettings(), device) == Precision(dtype, dtype)


@pytest.mark.parametrize("device", [OLD_CPU, NEW_CPU, GPU, OLD_GPU])
def test_force_fp32_is_float32_everywhere(device):
    settings = DefaultSettings(force_fp32=True)
    for precision in (
        unet_precision(settings, device),
        vae_precision(settings, device),
        text_precision(settings, device),
    ):
        assert precision == Precision(F32, F32)


@pytest.mark.parametrize(
    ("flag", "function", "expected"),
    [
        ("fp32_unet", unet_precision, Precision(F32, F32)),
        ("bf16_unet", unet_precision, Precision(BF16, BF16)),
        ("fp16_unet", unet_precision, Precision(F16, F16)),
        ("force_fp16", unet_precision, Precision(F16, F16)),
        ("fp64_unet", unet_precision, Precision(torch.float64, torch.float64)),
        ("fp8_e4m3fn_unet", unet_precision, Precision(torch.float8_e4m3fn, F16)),
        ("fp8_e5m2_unet", unet_precision, Precision(torch.float8_e5m2, F16)),
        ("fp32_vae", vae_precision, Precision(F32, F32)),
        ("bf16_vae", vae_precision, Precision(BF16, BF16)),
        ("fp16_vae", vae_precision, Precision(F16, F16)),
        ("fp32_text_enc", text_precision, Precision(F32, F32)),
        ("bf16_text_enc", text_precision, Precision(BF16, BF16)),
        ("fp16_text_enc", text_precision, Precision(F16, F16)),
    ],
)
def test_a_flag_decides(flag, function, expected):
    assert function(DefaultSettings(**{flag: True}), GPU) == expected


def test_float16_on_a_cpu_is_for_keeping_only():
    assert unet_precision(DefaultSettings(fp16_unet=True), OLD_CPU) == Precision(F16, F32)


def test_a_text_encoder_on_the_cpu_stays_in_its_file():
    assert text_precision(DefaultSettings(), NEW_CPU) == Precision(None, F32)
