"""Batched greedy generation of replies, sorted by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def generate_replies(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[dict[str, str]]],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    label: str = "generate",
) -> list[str]:
    """
    One greedy reply for each conversation.

    Args:
        model (`PreTrainedModel`): A causal language model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, with a chat template.
        prompts (`Sequence` of message lists): The conversations, each ending in the speaker's turn.
        max_new_tokens (`int`, *optional*, defaults to `64`): Where a reply is cut off.
        batch_size (`int`, *optional*, defaults to `16`): Changes nothing but speed, up to floating point.
        label (`str`, *optional*, defaults to `"generate"`): Of the progress bar.

    Returns:
        `list[str]`: the replies, in the order of the prompts, without special tokens.
    """
    import torch
    from tqdm.auto import tqdm

    encoded = [
        tokenizer.apply_chat_template(list(p), add_generation_prompt=True, return_dict=True)["input_ids"]
        for p in prompts
    ]
    order = sorted(
        range(len(encoded)), key=lambda i: -len(encoded[i])
    )  # longest first: memory runs out at once or never
    replies = [""] * len(encoded)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.inference_mode(), tqdm(total=len(order), desc=label, unit=" replies", disable=None) as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = len(encoded[batch[0]])
            ids = torch.tensor([[pad] * (width - len(encoded[i])) + encoded[i] for i in batch], device=model.device)
            mask = torch.tensor([[0] * (width - len(encoded[i])) + [1] * len(encoded[i]) for i in batch])
            output = model.generate(
                input_ids=ids,
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
            )
            for i, text in zip(
                batch, tokenizer.batch_decode(output[:, width:], skip_special_tokens=True), strict=True
            ):
                replies[i] = text.strip()
            bar.update(len(batch))
    return replies
