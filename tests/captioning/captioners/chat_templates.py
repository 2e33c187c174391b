"""Chat templates that write the prompts of published checkpoints, for tests; written anew, and shorter.

Each uses what the published one uses: filters, the tag `generation`, namespaces, whitespace control, exceptions.
"""

from __future__ import annotations

# llava-1.5-7b-hf and llava-v1.6-vicuna-7b-hf
VICUNA = """\
{%- for turn in messages -%}
{%- if turn.role != 'system' -%}{{ turn['role'].upper() + ': ' }}{%- endif -%}
{%- for part in turn.content | selectattr('type', 'equalto', 'image') -%}{{ '<image>\\n' }}{%- endfor -%}
{%- for part in turn.content | selectattr('type', 'equalto', 'text') -%}
{%- if turn.role == 'assistant' -%}{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}
{%- else -%}{{ part['text'] + ' ' }}{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""

# LLaVA-NeXT-Video-7B-hf
VICUNA_VIDEO = VICUNA.replace(
    "{%- for part in turn.content | selectattr('type', 'equalto', 'text') -%}",
    "{%- for part in turn.content | selectattr('type', 'equalto', 'video') -%}{{ '<video>\\n' }}{%- endfor -%}\n"
    "{%- for part in turn.content | selectattr('type', 'equalto', 'text') -%}",
)

# llava-v1.6-mistral-7b-hf: refuses a system turn
MISTRAL = """\
{% for turn in messages %}{% if turn['role'] == 'user' %}{{ '[INST] ' }}{% for part in turn['content'] %}\
{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}{% for part in turn['content'] %}\
{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ ' [/INST]' }}\
{% elif turn['role'] == 'assistant' %}{{ ' ' + turn['content'][0]['text'] + eos_token }}\
{% else %}{{ raise_exception('A turn of ' ~ turn['role'] ~ ' is not supported.') }}{% endif %}{% endfor %}"""

# llava-v1.6-34b-hf
CHATML = """\
{% for turn in messages %}{{ '<|im_start|>' ~ turn.role ~ '\\n' }}
    {%- for kind in ('image', 'text') %}
        {%- for part in turn.content if part.type == kind %}
            {{- '<image>\\n' if kind == 'image' else part.text }}
        {%- endfor %}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

# llama3-llava-next-8b-hf
LLAMA3 = """\
{% for turn in messages %}{{ '<|start_header_id|>' + turn.role + '<|end_header_id|>\\n\\n' }}\
{% for part in turn.content %}{{ '<image>\\n' if part.type == 'image' else (part.text | trim) }}{% endfor %}\
{{ '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

# llava-onevision-qwen2-7b-ov-hf
ONEVISION = """\
{% for turn in messages %}{{ '<|im_start|>' + turn['role'] + ' ' }}\
{% for name in ['image', 'video'] %}\
{% for part in turn['content'] | selectattr('type', 'equalto', name) %}{{ '<' ~ name ~ '>' }}{% endfor %}{% endfor %}\
{% for part in turn['content'] | selectattr('type', 'equalto', 'text') %}\
{% generation %}{{ '\\n' + part['text'] }}{% endgeneration %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# Qwen2-VL-7B-Instruct and Qwen2.5-VL-7B-Instruct: a system turn of its own, counted images and videos
QWEN_VL = """\
{%- set count = namespace(image=0, video=0) -%}
{%- if messages[0].role != 'system' -%}
    <|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{%- for turn in messages -%}
    <|im_start|>{{ turn.role ~ '\\n' }}
    {%- for part in turn.content -%}
        {%- if part.type == 'image' -%}
            {%- set count.image = count.image + 1 -%}
            {{ 'Picture ' ~ count.image ~ ': ' if add_vision_id }}<|vision_start|><|image_pad|><|vision_end|>
        {%- elif part.type == 'video' -%}
            {%- set count.video = count.video + 1 -%}
            {{ 'Video ' ~ count.video ~ ': ' if add_vision_id }}<|vision_start|><|video_pad|><|vision_end|>
        {%- else -%}
            {{ part.text }}
        {%- endif -%}
    {%- endfor -%}
    <|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

# Janus-Pro-1B-hf: newlines between parts, text is stripped
JANUS = """\
{%- set names = {'user': '<|User|>', 'assistant': '<|Assistant|>'} -%}
{%- for turn in messages -%}
    {{- names.get(turn.role, turn.role | capitalize) ~ ': ' -}}
    {%- for part in turn.content -%}
        {%- if part.type == 'image' -%}
            {{- ('' if loop.first else '\\n') ~ '<image_placeholder>' ~ ('' if loop.last else '\\n') -}}
        {%- elif part.type == 'text' -%}
            {%- set text = part.text.lstrip() if loop.first else part.text -%}
            {{- text.rstrip() if loop.last else text -}}
        {%- endif -%}
    {%- endfor -%}
    {%- if add_generation_prompt or not loop.last -%}
        {{- '\\n\\n' if turn.role == 'user' else '<|end_of_sentence|>' -}}
    {%- endif -%}
{%- endfor -%}
{{- '<|Assistant|>:' if add_generation_prompt -}}
"""

# InternVL3-1B-hf
INTERNVL = """\
{%- set places = {'image': '<IMG_CONTEXT>\\n', 'video': '<video>\\n'} -%}
{%- for turn in messages -%}
    {{- '<|im_start|>' ~ turn.role ~ '\\n' -}}
    {%- for part in turn.content -%}{{- places[part.type] | default(part.text) -}}{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

# Qwen2-7B-Instruct: a text model's template, which takes text only
TEXT_ONLY = """\
{% for turn in messages %}{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

PUBLISHED = {
    "llava-1.5": VICUNA,
    "llava-v1.6-mistral": MISTRAL,
    "llava-v1.6-34b": CHATML,
    "llama3-llava-next": LLAMA3,
    "llava-next-video": VICUNA_VIDEO,
    "llava-onevision": ONEVISION,
    "qwen2.5-vl": QWEN_VL,
    "janus-pro": JANUS,
    "internvl3": INTERNVL,
}
