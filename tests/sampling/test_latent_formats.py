"""The named latent spaces."""

import pytest
import torch

from limner.errors import NotFound
from limner.sampling.latent import preview_table
from limner.sampling.latent_formats import FORMATS, latent_format


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_undoes_what_it_does(name):
    form = FORMATS[name]
    latent = torch.rand(2, form.channels, *[3] * form.dims, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(form.process_out(form.process_in(latent)), latent, atol=1e-5)


def test_every_preview_has_a_format_of_its_name_and_as_many_factors_as_channels():
    for name, form in FORMATS.items():
        if form.preview is not None:
            cells = 4 if preview_table()[form.preview]["reshape"] else 1
            assert (form.preview, len(form.latent_rgb_factors) * cells) == (name, form.channels)
    assert set(preview_table()) - set(FORMATS) == {"Flux2"}  # its autoencoder is not known here


def test_an_unknown_format_is_refused_with_the_known_ones_named():
    with pytest.raises(NotFound, match=r"Flux3.*Wan21"):
        latent_format("Flux3")
