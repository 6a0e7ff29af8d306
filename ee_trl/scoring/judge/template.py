"""Rendering a judge's chat template: one message of the user, the same text on every day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScorerError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_DATE = "2024-07-26"
"""The day that a chat template which writes today's date is told, so that a judge is asked the same, and has the same
fingerprint, on every day. It is the one that Llama 3.1's template has where nobody gives another."""

# what the directives of strftime stand for at midnight of that day, in English whatever the locale
_DIRECTIVES = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%-m": "7", "%d": "26", "%-d": "26", "%e": "26", "%j": "208"},
    **{"%B": "July", "%b": "Jul", "%h": "Jul", "%A": "Friday", "%a": "Fri", "%F": PROMPT_DATE, "%D": "07/26/24"},
    **{"%H": "00", "%-H": "0", "%I": "12", "%-I": "12", "%M": "00", "%S": "00", "%p": "AM", "%T": "00:00:00"},
    **{"%f": "000000", "%R": "00:00", "%z": "", "%Z": "", "%x": "07/26/24", "%X": "00:00:00"},
    **{"%c": "Fri Jul 26 00:00:00 2024", "%u": "5", "%w": "5"},
}
_REPLACED = "".join(f"|replace({directive!r}, {text!r})" for directive, text in _DIRECTIVES.items())
# a macro of the template's own stands before the function of this name that transformers lends templates; the line
# break at its end goes with the block (trim_blocks), and the template begins as it did
_FIXED_CLOCK = "{%- macro strftime_now(format) -%}{{ format" + _REPLACED + " }}{%- endmacro %}\n"


def rendered(tokenizer: PreTrainedTokenizerBase, content: str) -> str:
    """
    What the chat template makes of one message of the user, up to where the assistant's answer begins.

    Raises:
        [`ScorerError`]: The template refuses it, or there are several and none of them is the default.
    """
    from jinja2 import TemplateError

    try:
        template = tokenizer.get_chat_template()
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,  # templates that know no thinking ignore it
            chat_template=_FIXED_CLOCK + template if "strftime_now" in template else None,
        )
    except (TemplateError, ValueError) as error:
        raise ScorerError(
            f"the judge's chat template does not take a single message of the user ({error}); give another judge, or "
            "set tokenizer.chat_template to one that does and pass model and tokenizer"
        ) from error
    return str(text)
