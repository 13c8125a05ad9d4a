"""Tiny models of transformers with random weights, as ``save_pretrained`` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}
NAMES = {0: "cat", 1: "dog", 2: "bird"}


def write_classifier(folder: Path) -> Path:
    """A ViT for 32 x 32 images with three classes, and its processor."""
    labels = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
    config = transformers.ViTConfig(**SMALL, image_size=32, **labels)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    return _write(folder, transformers.ViTForImageClassification, config, processor)


def write_detector(folder: Path) -> Path:
    """A YOLOS for 32 x 48 images, whose processor gives images of various sizes."""
    config = transformers.YolosConfig(**SMALL, image_size=[32, 48], num_detection_tokens=5, num_labels=4)
    processor = transformers.YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    return _write(folder, transformers.YolosForObjectDetection, config, processor)


def write_segmenter(folder: Path) -> Path:
    """A SegFormer for 64 x 64 images."""
    config = transformers.SegformerConfig(
        num_labels=3, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], depths=[1] * 4, decoder_hidden_size=16
    )
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 64})
    return _write(folder, transformers.SegformerForSemanticSegmentation, config, processor)


def image_and_text_model() -> transformers.CLIPModel:
    """A CLIP for 32 x 32 images and texts of 8 tokens, the last of which ends the text."""
    size = {name: SMALL[name] for name in SMALL if name != "patch_size"}
    text = {"vocab_size": 64, "max_position_embeddings": 8, "bos_token_id": 62, "eos_token_id": 63, "pad_token_id": 63}
    vision = {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=size | text, vision_config=size | vision, projection_dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.CLIPModel(config).eval()


def _write(folder: Path, kind: type, config: object, processor: transformers.BaseImageProcessor) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int = 8) -> Path:
    """Smooth random images of two sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        values = np.random.default_rng(index).integers(0, 256, (5, 6, 3), np.uint8)
        size = (60, 45) if index % 2 else (40, 52)
        Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder
