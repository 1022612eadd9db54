"""This script makes a tiny random-weight chat model, or LoRA adapters for one, that vLLM loads offline.

It is for the engine's environment (it needs torch and transformers). The model has Qwen2's architecture, a byte-level
BPE tokenizer trained on the Python standard library's text, a ChatML template that renders tools (Hermes style), and
safetensors. What the model says is noise; what is real is everything a router sees: tokenisation, templates, prefill
cost, block hashing, prefix caching. The same arguments under the same Python give the same files.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PRESETS = {
    "nano": (128, 2, 4, 2, 384),
    "small": (384, 4, 6, 2, 1536),
    "medium": (512, 8, 8, 4, 1536),
}
"""Hidden size, layers, heads, KV heads, intermediate size. `nano` is for protocol tests; with `small` a cold
prefill is visibly dearer than a warm one (1.1 s against 42 ms at 3.7k tokens on one core); `medium` costs 2.5
times that."""

VOCABULARY_SIZE = 8192
MAX_CONTEXT_TOKENS = 32768
CORPUS_BYTES = 8_000_000
SEED = 0
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKERS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
LORA_RANK = 8


def corpus() -> Iterator[str]:
    """Files to train the tokenizer on, about `CORPUS_BYTES` in all."""
    total_bytes = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        # Installed packages differ between environments; the library itself does not.
        if "site-packages" in path.parts:
            continue
        total_bytes += path.stat().st_size
        yield str(path)
        if total_bytes > CORPUS_BYTES:
            return


def make_tokenizer(out: Path) -> Any:
    """Train and save the tokenizer; its vocabulary has exactly `VOCABULARY_SIZE` entries."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found,unused-ignore]
    from transformers import PreTrainedTokenizerFast  # type: ignore[import-not-found,unused-ignore]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL) - len(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(list(corpus()), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = Path(__file__).with_name("chat_template.jinja").read_text()
    fast.save_pretrained(out)
    return fast


def make_model(out: Path, preset: str) -> str:
    """Write tokenizer, configuration and random weights into `out`; return a line about the model."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM  # type: ignore[import-not-found,unused-ignore]

    hidden, layers, heads, kv_heads, intermediate = PRESETS[preset]
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(out)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=MAX_CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        # Wider than the usual 0.02: sharper logits, so less repetition of one token.
        initializer_range=0.05,
    )
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=[end, pad], pad_token_id=pad, do_sample=True, temperature=0.7, top_p=0.9
    )
    model.save_pretrained(out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kv_bytes = 2 * layers * kv_heads * (hidden // heads) * 2
    return f"{parameters / 1e6:.1f} M parameters, {kv_bytes} bytes of KV cache a token"


def make_lora(out: Path, name: str, preset: str) -> None:
    """Write a random PEFT adapter on q_proj and v_proj; its weights follow from its name."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from safetensors.torch import save_file  # type: ignore[import-not-found,unused-ignore]

    hidden, layers, heads, kv_heads, _ = PRESETS[preset]
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    tensors = {}
    for layer in range(layers):
        for module, width in (("q_proj", hidden), ("v_proj", kv_heads * (hidden // heads))):
            key = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(LORA_RANK, hidden, generator=generator) * 0.02
            tensors[f"{key}.lora_B.weight"] = torch.randn(width, LORA_RANK, generator=generator) * 0.02
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(out / "adapter_model.safetensors"))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "warmroute-tiny",
        "r": LORA_RANK,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Make what the arguments name: a model, or with `--lora` an adapter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--lora", metavar="NAME", help="make an adapter of this name instead of a model")
    args = parser.parse_args()
    if args.lora:
        make_lora(args.out, args.lora, args.preset)
    else:
        sys.stdout.write(make_model(args.out, args.preset) + "\n")


if __name__ == "__main__":
    main()
