"""Chat templates: the conversation format of each Gemma generation, as Jinja chat templates.

These templates were written for this package from the documented formats
(ai.google.dev/gemma/docs/core/prompt-structure). They are used to show a plan without a tokenizer,
and for tiny test models. A real model has a chat template in its files, and that template counts.
The templates know only text: no images, no tools.
"""

from __future__ import annotations

_ALTERNATION = """\
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must alternate, starting with the user") }}
    {%- endif -%}
"""

_CONTENT = """\
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {%- for part in message['content'] -%}
            {{ part['text'] | trim }}
        {%- endfor -%}
    {%- endif -%}
"""

_GEMMA2 = (
    """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception("System role not supported") }}
{%- endif -%}
{%- for message in messages -%}
"""
    + _ALTERNATION
    + """\
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""
)

_GEMMA3 = (
    """\
{{ bos_token }}
{%- set prefix, turns = '', messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set prefix = (system if system is string else system[0]['text']) + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for message in turns -%}
"""
    + _ALTERNATION
    + """\
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}
"""
    + _CONTENT
    + """\
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""
)

_GEMMA4 = (
    """\
{{ bos_token }}
{%- for message in messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<|turn>' + role + '\\n' }}
    {%- if enable_thinking is defined and enable_thinking and role == 'system' -%}
        {{ '<|think|>\\n' }}
    {%- endif -%}
"""
    + _CONTENT
    + """\
    {{ '<turn|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|turn>model\\n' }}
{%- endif -%}
"""
)

CHAT_TEMPLATES: dict[str, str] = {
    "gemma": _GEMMA2,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3n": _GEMMA3,
    "gemma4": _GEMMA4,
}
