"""Previews and latent formats."""

import pytest
import torch

from limner.errors import BadInput
from limner.sampling import SCHEDULERS, LatentFormat, calculate_sigmas, make_previewer, make_sampling


def test_a_latent_becomes_a_picture_of_its_first_member():
    preview = make_previewer(LatentFormat(preview="SD15"))
    assert preview is not None
    batch = torch.cat([torch.zeros(1, 4, 6, 8), torch.ones(1, 4, 6, 8)])
    picture = preview(batch)
    assert picture.size == (8, 6)
    assert picture.getpixel((0, 0)) == (127, 127, 127)


def test_a_decoder_is_used_when_asked_for_and_its_picture_is_kept_small():
    def decode(latent):
        return torch.ones(1, 3, 1024, 512)

    preview = make_previewer(LatentFormat(preview="SD15"), "taesd", decode)
    assert preview is not None
    assert preview(torch.zeros(2, 4, 8, 8)).size == (256, 512)


def test_latents_that_hold_finer_cells_are_unfolded():
    preview = make_previewer(LatentFormat(channels=128, preview="Flux2"))
    assert preview is not None
    assert preview(torch.zeros(1, 128, 4, 4)).size == (8, 8)


@pytest.mark.parametrize("latent_format", [LatentFormat(), LatentFormat(dims=1, preview="SD15")])
def test_there_is_no_preview_without_factors(latent_format):
    assert make_previewer(latent_format) is None


def test_no_preview_is_made_when_none_is_wanted():
    assert make_previewer(LatentFormat(preview="SD15"), "none") is None


def test_a_latent_format_undoes_itself_for_video_too():
    latent_format = LatentFormat(channels=2, scale_factor=0.5, mean=(1.0, 2.0), std=(2.0, 4.0))
    latent = torch.randn(1, 2, 3, 4, 4)
    torch.testing.assert_close(latent_format.process_out(latent_format.process_in(latent)), latent)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_schedule_falls_to_zero(scheduler):
    sigmas = calculate_sigmas(make_sampling("eps"), scheduler, 10)
    assert sigmas.device.type == "cpu"
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_an_unknown_scheduler_sampling_or_setting_is_refused():
    with pytest.raises(BadInput, match="No scheduler"):
        calculate_sigmas(make_sampling("eps"), "carras", 4)
    with pytest.raises(BadInput, match="No sampling"):
        make_sampling("epsilon")
    with pytest.raises(BadInput, match="no such setting"):
        make_sampling("flow", shfit=3.0)
