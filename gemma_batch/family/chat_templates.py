"""Chat templates: the conversation format of each Gemma generation, as Jinja chat templates.

These templates were written for this package from the documented formats
(ai.google.dev/gemma/docs/core/prompt-structure). They are used to show a plan without a tokenizer,
and for tiny test models. A real model has a chat template in its files, and that template counts.
The templates know only text: no images. Those of Gemma 4 and FunctionGemma know functions, their
calls and results.
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

# A value in the format of calls: texts between marks, the rest bare. Types of a JSON schema are
# written in capitals.
_VALUE = """\
{%- macro value(x) -%}
    {%- if x is string -%}
        {{ 'QUOTE' + x + 'QUOTE' }}
    {%- elif x is boolean -%}
        {{ 'true' if x else 'false' }}
    {%- elif x is none -%}
        null
    {%- elif x is mapping -%}
        {{ '{' }}
        {%- for name, inner in x | dictsort -%}
            {{ name }}:{{ value(inner | upper if name == 'type' and inner is string else inner) }}
            {{- ',' if not loop.last }}
        {%- endfor -%}
        {{ '}' }}
    {%- elif x is iterable -%}
        [{% for inner in x %}{{ value(inner) }}{{ ',' if not loop.last }}{% endfor %}]
    {%- else -%}
        {{ x }}
    {%- endif -%}
{%- endmacro -%}
{%- macro arguments(x) -%}
    {%- for name, inner in x | dictsort -%}
        {{ name }}:{{ value(inner) }}{{ ',' if not loop.last }}
    {%- endfor -%}
{%- endmacro -%}
"""

# The result of a call stands in the turn of the call, and the model goes on in the same turn.
_FUNCTIONS = (
    _VALUE
    + """\
{%- macro result(name, content) -%}
    {{ 'RESULTresponse:' + name + '{' }}
    {%- if content is mapping -%}
        {{ arguments(content) }}
    {%- else -%}
        value:{{ value(content) }}
    {%- endif -%}
    {{ '}END_RESULT' }}
{%- endmacro -%}
{{ bos_token }}
{%- set thinks = can_think and enable_thinking is defined and enable_thinking -%}
{%- set first = messages[0]['role'] in ('system', 'developer') -%}
{%- if thinks or tools or first -%}
    {{ 'TURNSYSTEM\\n' }}
    {%- if thinks -%}
        {{ '<|think|>\\n' }}
    {%- endif -%}
    {%- if first -%}
        {%- set message = messages[0] -%}
"""
    + _CONTENT
    + """\
    {%- endif -%}
    {%- for tool in tools or [] -%}
        {%- set function = tool['function'] -%}
        {{ 'TOOLdeclaration:' + function['name'] + '{description:' }}
        {{- value(function['description']) }},parameters:{{ value(function['parameters']) }}
        {{- '}END_TOOL' }}
    {%- endfor -%}
    {{ 'END_TURN\\n' }}
{%- endif -%}
{%- set now = namespace(open=false) -%}
{%- for message in (messages[1:] if first else messages) -%}
    {%- if message['role'] == 'tool' and by_role -%}
        {{ result(message['name'], message['content']) }}
    {%- else -%}
        {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
        {%- if now.open and role != 'model' -%}
            {{ 'END_TURN\\n' }}
            {%- set now.open = false -%}
        {%- endif -%}
        {%- if not now.open -%}
            {{ 'TURN' + role + '\\n' }}
        {%- endif -%}
        {%- set now.open = false -%}
        {%- for call in message['tool_calls'] or [] -%}
            {{ 'CALLcall:' + call['function']['name'] + '{' }}
            {{- arguments(call['function']['arguments']) + '}END_CALL' }}
        {%- endfor -%}
        {%- for answer in message['tool_responses'] or [] -%}
            {{ result(answer['name'], answer['response']) }}
        {%- endfor -%}
"""
    + _CONTENT
    + """\
        {%- if message['tool_responses'] and not message['content'] -%}
            {%- set now.open = true -%}
        {%- elif by_role and loop.nextitem is defined and loop.nextitem['role'] == 'tool' -%}
            {%- set now.open = true -%}
        {%- else -%}
            {{ 'END_TURN\\n' }}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and not now.open -%}
    {{ 'TURNmodel\\n' }}
{%- endif -%}
"""
)


def _functions(**marks: str) -> str:
    template = _FUNCTIONS
    for name in sorted(marks, key=len, reverse=True):  # END_CALL before CALL
        template = template.replace(name, marks[name])
    return template


_GEMMA4 = _functions(
    TURN="<|turn>",
    END_TURN="<turn|>",
    SYSTEM="system",
    TOOL="<|tool>",
    END_TOOL="<tool|>",
    CALL="<|tool_call>",
    END_CALL="<tool_call|>",
    RESULT="<|tool_response>",
    END_RESULT="<tool_response|>",
    QUOTE='<|"|>',
    by_role="false",
    can_think="true",
)
_FUNCTION_GEMMA = _functions(
    TURN="<start_of_turn>",
    END_TURN="<end_of_turn>",
    SYSTEM="developer",
    TOOL="<start_function_declaration>",
    END_TOOL="<end_function_declaration>",
    CALL="<start_function_call>",
    END_CALL="<end_function_call>",
    RESULT="<start_function_response>",
    END_RESULT="<end_function_response>",
    QUOTE="<escape>",
    by_role="true",
    can_think="false",
)

CHAT_TEMPLATES: dict[str, str] = {
    "gemma": _GEMMA2,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3n": _GEMMA3,
    "gemma4": _GEMMA4,
    "functiongemma": _FUNCTION_GEMMA,
}
