"""Prompt text: the chat templates, the slots of media in it, and the questions that the pipeline asks.

A template turns messages into text with one slot per medium; the processor then replaces each slot by placeholder
tokens. The templates contain the generation marks from which assistant masks, and so labels, are made: nothing else
decides what is supervised. This file does not tokenize and does not write times.
"""

import re


# One slot per medium in the text. `<video>` and `<audio>` are also the two placeholder tokens of the model; `<image>`
# is only a slot, an image becomes one `<video>` token.
VIDEO_TOKEN = "<video>"
AUDIO_TOKEN = "<audio>"
IMAGE_TOKEN = "<image>"
SLOT_PATTERN = re.compile("|".join(map(re.escape, (VIDEO_TOKEN, AUDIO_TOKEN, IMAGE_TOKEN))))

# The system sentence of Vicuna v1 (golden/labels/templates.json).
SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

# A line break separates a slot from the text next to it, unless the text already has one there.
_CONTENT_MACRO = """\
{%- macro render(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}
{%- for block in content -%}
{%- set text = block['text'] if block['type'] == 'text' else '<' ~ block['type'] ~ '>' -%}
{%- if not loop.first and (block['type'] != 'text' or loop.previtem['type'] != 'text') -%}
{%- set before = loop.previtem['text'] if loop.previtem['type'] == 'text' else '' -%}
{%- if not before.endswith('\\n') and not text.startswith('\\n') -%}{{- '\\n' -}}{%- endif -%}
{%- endif -%}
{{- text -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

# Vicuna v1: loss on each answer and on the end-of-sequence token after it. The space before an answer is part of the
# answer, because sentencepiece and byte-level tokenizers make it part of the answer's first token. An opening
# assistant turn is dropped, as in the published code. A conversation without a user turn is an error.
VICUNA_CHAT_TEMPLATE = (
    _CONTENT_MACRO
    + f"""\
{{%- set system = "{SYSTEM_PROMPT}" -%}}"""
    + """\
{%- set turns = messages -%}
{%- if turns[0]['role'] == 'system' -%}{%- set system = render(turns[0]['content']) -%}\
{%- set turns = turns[1:] -%}{%- endif -%}
{%- if turns and turns[0]['role'] == 'assistant' -%}{%- set turns = turns[1:] -%}{%- endif -%}
{%- if not turns -%}{{- raise_exception('the conversation has no user turn') -}}{%- endif -%}
{{- system ~ ' ' -}}
{%- for message in turns -%}
{%- if message['role'] == 'user' -%}{{- 'USER: ' ~ render(message['content']) ~ ' ' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'ASSISTANT:' -}}
{%- generation -%}
{%- set answer = render(message['content']) -%}
{{- (' ' ~ answer if answer else '') ~ eos_token -}}
{%- endgeneration -%}
{%- else -%}{{- raise_exception('unknown role ' ~ message['role'] ~ ': expected system, user or assistant') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"""
)

# Stages I and II: the slot, a line break, the caption, a line break. The user's text is dropped, as published.
PLAIN_CHAT_TEMPLATE = """\
{%- set turns = messages | rejectattr('role', 'equalto', 'system') | list -%}
{%- set user = turns[0]['content'] -%}
{%- set slots = [] if user is string else user | rejectattr('type', 'equalto', 'text') | list -%}
{%- if turns | length != (1 if add_generation_prompt else 2) or slots | length != 1 -%}
{{- raise_exception('the plain template takes one user turn with exactly one video, audio or image, and one answer; \
got '
    ~ turns | length ~ ' turns and ' ~ slots | length ~ ' media') -}}
{%- endif -%}
{{- '<' ~ slots[0]['type'] ~ '>\\n' -}}
{%- if not add_generation_prompt -%}
{%- generation -%}
{%- set answer = turns[1]['content'] -%}
{{- (answer if answer is string else answer | map(attribute='text') | join) ~ '\\n' -}}
{%- endgeneration -%}
{%- endif -%}"""

# The sandbox's warm-up: after the system sentence, questions and answers follow one another without roles and without
# end-of-sequence tokens ("... dog barking1240 rain falling No cat meowing5563"). A time follows its event immediately,
# because a small new language model learns to read a position out much faster from the event's last token.
LISTING_CHAT_TEMPLATE = (
    _CONTENT_MACRO
    + f"""\
{{{{- "{SYSTEM_PROMPT} USER:" -}}}}"""
    + """\
{%- for message in messages -%}
{%- set text = render(message['content']) -%}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- ('' if text[:1] in '0123456789' else ' ') ~ text -}}{%- endgeneration -%}
{%- else -%}{{- ' ' ~ text -}}{%- endif -%}
{%- endfor -%}"""
)

# The questions that the pipeline and the evaluation ask, one per conversation family of PU-VALOR (dense narration,
# grounding, segment caption). Each is the first of its family's wordings in the training data (a test holds this).
NARRATION_PROMPT = "List the events of this video with their times."
GROUNDING_PROMPT = 'When does "{query}" happen?'
SEGMENT_CAPTION_PROMPT = "What happens from {start} to {end}?"
