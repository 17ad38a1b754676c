"""A made-up LAION-CLAP checkpoint as Hugging Face publishes them, small, and the transformers model that it is of."""

import json
from pathlib import Path

WORDS, WIDTH = 12, 16  # numbers in an audio vector, in a vector
TOKENS = ["<s>", "<pad>", "</s>", "<unk>", *map(chr, range(33, 127)), "Ġ", "te", "ch", "tech", "no", "Ġd", "<mask>"]
MERGES = [("t", "e"), ("c", "h"), ("te", "ch"), ("n", "o"), ("Ġ", "d")]
FRONT_END = {"truncation": "rand_trunc", "frequency_min": 50}  # as published; the other values are the defaults


def model():
    """A ClapModel of two small stages and one layer of text, whose random weights are large enough to matter."""
    import torch
    from transformers import ClapConfig, ClapModel

    audio = {
        "patch_embeds_hidden_size": WIDTH // 2,
        "hidden_size": WIDTH,
        "depths": [2, 1],
        "num_attention_heads": [1, 2],
    }
    text = {"vocab_size": len(TOKENS), "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 40}  # fmt: skip
    torch.manual_seed(1)
    made = ClapModel(ClapConfig(projection_dim=WORDS, audio_config=audio, text_config=text)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(float("norm" in name.casefold() and name.endswith("weight")), 0.3)
        norm = made.audio_model.audio_encoder.batch_norm
        norm.running_mean.fill_(-30.0)
        norm.running_var.fill_(300.0)
    return made


def tokenizer():
    """The tokenizer that belongs to it."""
    from transformers import RobertaTokenizer

    return RobertaTokenizer(vocab={token: number for number, token in enumerate(TOKENS)}, merges=MERGES)


def write_folder(folder: Path, made) -> Path:
    """Save a model with its tokenizer and front end, as transformers does."""
    from transformers import ClapFeatureExtractor

    folder.mkdir(parents=True)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    ClapFeatureExtractor(**FRONT_END).save_pretrained(folder)
    return folder


def in_older_form(folder: Path, to: Path) -> Path:
    """The same checkpoint with a pickle of weights, and the tokenizer's two older files."""
    import safetensors.torch
    import torch

    to.mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json"):
        (to / name).write_bytes((folder / name).read_bytes())
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), to / "pytorch_model.bin")
    (to / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(TOKENS)}))
    (to / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in MERGES))
    return to
