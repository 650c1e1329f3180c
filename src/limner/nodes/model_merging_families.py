"""Two models of one family as one, with a ratio for each of its blocks. The ratio is the weight of the first model.

A weight takes the ratio with the longest name that its own begins with, and the first ratio where none does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

from limner.graph import Float, node
from limner.graph.kinds import Each
from limner.models import merging
from limner.nodes.kinds import MODEL

specific = partial(
    node,
    category="advanced/model_merging/model_specific",
    python_module="comfy_extras.nodes_model_merging_model_specific",
)


def each(*names: str | tuple[str, int]) -> Each:
    """A ratio for each name; ("blocks.{}.", 3) is blocks.0. to blocks.2."""
    found = [
        name
        for entry in names
        for name in ([entry] if isinstance(entry, str) else map(entry[0].format, range(entry[1])))
    ]
    return Each(tuple(found), Float(min=0.0, max=1.0, step=0.01), 1.0)


def merged(model1: MODEL, model2: MODEL, ratios: Mapping[str, float]) -> MODEL:
    """The weighted mean of two models, block by block."""
    return merging.merge_models(model1, model2, merging.by_longest_prefix(ratios))


SD1 = each(
    "time_embed.", "label_emb.", ("input_blocks.{}.", 12), ("middle_block.{}.", 3), ("output_blocks.{}.", 12), "out."
)


@specific("ModelMergeSD1", title="ModelMergeSD1")
def sd1(model1: MODEL, model2: MODEL, **ratios: Annotated[float, SD1]) -> MODEL:
    """Two models of Stable Diffusion 1."""
    return merged(model1, model2, ratios)


@specific("ModelMergeSD2", title="ModelMergeSD2")
def sd2(model1: MODEL, model2: MODEL, **ratios: Annotated[float, SD1]) -> MODEL:
    """Two models of Stable Diffusion 2."""
    return merged(model1, model2, ratios)


SDXL = each(
    "time_embed.", "label_emb.", ("input_blocks.{}", 9), ("middle_block.{}", 3), ("output_blocks.{}", 9), "out."
)


@specific("ModelMergeSDXL", title="ModelMergeSDXL")
def sdxl(model1: MODEL, model2: MODEL, **ratios: Annotated[float, SDXL]) -> MODEL:
    """Two models of Stable Diffusion XL."""
    return merged(model1, model2, ratios)


SD3_2B = each(
    "pos_embed.",
    "x_embedder.",
    "context_embedder.",
    "y_embedder.",
    "t_embedder.",
    ("joint_blocks.{}.", 24),
    "final_layer.",
)


@specific("ModelMergeSD3_2B", title="ModelMergeSD3_2B")
def sd3_2b(model1: MODEL, model2: MODEL, **ratios: Annotated[float, SD3_2B]) -> MODEL:
    """Two models of Stable Diffusion 3 of two billion weights."""
    return merged(model1, model2, ratios)


AURAFLOW = each(
    "init_x_linear.",
    "positional_encoding",
    "cond_seq_linear.",
    "register_tokens",
    "t_embedder.",
    ("double_layers.{}.", 4),
    ("single_layers.{}.", 32),
    "modF.",
    "final_linear.",
)


@specific("ModelMergeAuraflow", title="ModelMergeAuraflow")
def auraflow(model1: MODEL, model2: MODEL, **ratios: Annotated[float, AURAFLOW]) -> MODEL:
    """Two models of AuraFlow."""
    return merged(model1, model2, ratios)


FLUX1 = each(
    "img_in.",
    "time_in.",
    "guidance_in",
    "vector_in.",
    "txt_in.",
    ("double_blocks.{}.", 19),
    ("single_blocks.{}.", 38),
    "final_layer.",
)


@specific("ModelMergeFlux1", title="ModelMergeFlux1")
def flux1(model1: MODEL, model2: MODEL, **ratios: Annotated[float, FLUX1]) -> MODEL:
    """Two models of Flux.1."""
    return merged(model1, model2, ratios)


SD35_LARGE = each(
    "pos_embed.",
    "x_embedder.",
    "context_embedder.",
    "y_embedder.",
    "t_embedder.",
    ("joint_blocks.{}.", 38),
    "final_layer.",
)


@specific("ModelMergeSD35_Large", title="ModelMergeSD35_Large")
def sd35_large(model1: MODEL, model2: MODEL, **ratios: Annotated[float, SD35_LARGE]) -> MODEL:
    """Two models of Stable Diffusion 3.5 Large."""
    return merged(model1, model2, ratios)


MOCHI_PREVIEW = each(
    "pos_frequencies.", "t_embedder.", "t5_y_embedder.", "t5_yproj.", ("blocks.{}.", 48), "final_layer."
)


@specific("ModelMergeMochiPreview", title="ModelMergeMochiPreview")
def mochi_preview(model1: MODEL, model2: MODEL, **ratios: Annotated[float, MOCHI_PREVIEW]) -> MODEL:
    """Two models of Mochi."""
    return merged(model1, model2, ratios)


LTXV = each(
    "patchify_proj.",
    "adaln_single.",
    "caption_projection.",
    ("transformer_blocks.{}.", 28),
    "scale_shift_table",
    "proj_out.",
)


@specific("ModelMergeLTXV", title="ModelMergeLTXV")
def ltxv(model1: MODEL, model2: MODEL, **ratios: Annotated[float, LTXV]) -> MODEL:
    """Two models of LTX-Video."""
    return merged(model1, model2, ratios)


COSMOS_7B = each(
    "pos_embedder.",
    "extra_pos_embedder.",
    "x_embedder.",
    "t_embedder.",
    "affline_norm.",
    ("blocks.block{}.", 28),
    "final_layer.",
)


@specific("ModelMergeCosmos7B", title="ModelMergeCosmos7B")
def cosmos_7b(model1: MODEL, model2: MODEL, **ratios: Annotated[float, COSMOS_7B]) -> MODEL:
    """Two models of Cosmos of seven billion weights."""
    return merged(model1, model2, ratios)


COSMOS_14B = each(
    "pos_embedder.",
    "extra_pos_embedder.",
    "x_embedder.",
    "t_embedder.",
    "affline_norm.",
    ("blocks.block{}.", 36),
    "final_layer.",
)


@specific("ModelMergeCosmos14B", title="ModelMergeCosmos14B")
def cosmos_14b(model1: MODEL, model2: MODEL, **ratios: Annotated[float, COSMOS_14B]) -> MODEL:
    """Two models of Cosmos of fourteen billion weights."""
    return merged(model1, model2, ratios)


WAN2_1 = each(
    "patch_embedding.",
    "time_embedding.",
    "time_projection.",
    "text_embedding.",
    "img_emb.",
    ("blocks.{}.", 40),
    "head.",
)


@specific("ModelMergeWAN2_1", title="ModelMergeWAN2_1")
def wan2_1(model1: MODEL, model2: MODEL, **ratios: Annotated[float, WAN2_1]) -> MODEL:
    """Two models of Wan 2.1."""
    return merged(model1, model2, ratios)


COSMOS_PREDICT2_2B = each(
    "pos_embedder.", "x_embedder.", "t_embedder.", "t_embedding_norm.", ("blocks.{}.", 28), "final_layer."
)


@specific("ModelMergeCosmosPredict2_2B", title="ModelMergeCosmosPredict2_2B")
def cosmos_predict2_2b(model1: MODEL, model2: MODEL, **ratios: Annotated[float, COSMOS_PREDICT2_2B]) -> MODEL:
    """Two models of Cosmos-Predict2 of two billion weights."""
    return merged(model1, model2, ratios)


COSMOS_PREDICT2_14B = each(
    "pos_embedder.", "x_embedder.", "t_embedder.", "t_embedding_norm.", ("blocks.{}.", 36), "final_layer."
)


@specific("ModelMergeCosmosPredict2_14B", title="ModelMergeCosmosPredict2_14B")
def cosmos_predict2_14b(model1: MODEL, model2: MODEL, **ratios: Annotated[float, COSMOS_PREDICT2_14B]) -> MODEL:
    """Two models of Cosmos-Predict2 of fourteen billion weights."""
    return merged(model1, model2, ratios)


QWEN_IMAGE = each(
    "pos_embeds.", "img_in.", "txt_norm.", "txt_in.", "time_text_embed.", ("transformer_blocks.{}.", 60), "proj_out."
)


@specific("ModelMergeQwenImage", title="ModelMergeQwenImage")
def qwen_image(model1: MODEL, model2: MODEL, **ratios: Annotated[float, QWEN_IMAGE]) -> MODEL:
    """Two models of Qwen-Image."""
    return merged(model1, model2, ratios)
