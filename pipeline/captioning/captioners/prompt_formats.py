"""The published prompts of model families, for checkpoints without a chat template.

Sources: the model documentation of transformers and the model cards; for `llava_qwen`, `conv_templates` of the public
LLaVA-NeXT. Knows nothing about checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LANGUAGE_AND_VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True)
class PromptFormat:
    """A published prompt.

    name: for the log.
    user: with `{blocks}` and `{question}`; the answer begins after its end.
    block: one image or video, with `{token}`.
    system: the system turn, with `{system}`; empty if the format has none.
    default_system: the published system prompt, used if none is given; empty for no system turn.
    is_chat: whether an answer follows even an empty question. Otherwise an empty question makes an empty prompt, which
        the model continues with a caption.
    """

    name: str
    user: str
    block: str = "{token}\n"
    system: str = ""
    default_system: str = ""
    is_chat: bool = True

    def text(self, question: str, system: str, tokens: Sequence[str]) -> str:
        """The prompt. Without a system turn in the format, the system prompt stands before the question.

        tokens: the placeholder of each image or video.
        """
        if system and not self.system:
            question, system = before_question(system, question), ""
        if not question and not self.is_chat:
            return ""
        blocks = "".join(self.block.format(token=token) for token in tokens)
        system = system or self.default_system
        head = self.system.format(system=system) if system else ""
        return head + self.user.format(blocks=blocks, question=question)


def before_question(system: str, question: str) -> str:
    """The question of a prompt without a system turn."""
    return f"{system}\n\n{question}"


VICUNA = PromptFormat("vicuna", "USER: {blocks}{question} ASSISTANT:", system="{system} ")
MISTRAL = PromptFormat("mistral", "[INST] {blocks}{question} [/INST]")
# LLaVA-1.6 34b (Yi): no newlines between the turns
CHATML = PromptFormat(
    "chatml",
    "<|im_start|>user\n{blocks}{question}<|im_end|><|im_start|>assistant\n",
    system="<|im_start|>system\n{system}<|im_end|>",
    default_system="Answer the questions.",
)
LLAMA3 = PromptFormat(
    "llama3",
    "<|start_header_id|>user<|end_header_id|>\n\n{blocks}{question}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    system="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
    default_system=_LANGUAGE_AND_VISION,
)
ONEVISION = PromptFormat(
    "onevision",
    "<|im_start|>user {blocks}\n{question}<|im_end|><|im_start|>assistant\n",
    block="{token}",
    system="<|im_start|>system \n{system}<|im_end|>",
)
QWEN_1_5 = PromptFormat(
    "qwen_1_5",
    "<|im_start|>user\n{blocks}{question}<|im_end|>\n<|im_start|>assistant\n",
    system="<|im_start|>system\n{system}<|im_end|>\n",
    default_system="You are a helpful assistant.",
)
QWEN_VL = PromptFormat(
    "qwen-vl",
    QWEN_1_5.user,
    block="<|vision_start|>{token}<|vision_end|>",
    system=QWEN_1_5.system,
    default_system=QWEN_1_5.default_system,
)
BLIP_2 = PromptFormat("blip-2", "Question: {question} Answer:", is_chat=False)
JANUS = PromptFormat(
    "janus",
    "<|User|>: {blocks}{question}\n\n<|Assistant|>:",
    system="{system}\n\n",
    default_system=_LANGUAGE_AND_VISION,
)
INTERNVL = PromptFormat("internvl", QWEN_1_5.user, system=QWEN_1_5.system)


def time_instruction(video_time: float, frame_seconds: Sequence[float]) -> str:
    """The sentences about the times of the frames that LLaVA-Video puts before the question.

    Source: docs/LLaVA_Video_1003.md of the public LLaVA-NeXT. There is no space after "located at ... s.".

    video_time: duration of the video in seconds.
    frame_seconds: time of each sampled frame in seconds.
    """
    times = ",".join(f"{seconds:.2f}s" for seconds in frame_seconds)
    return (
        f"The video lasts for {video_time:.2f} seconds, and {len(frame_seconds)} frames are uniformly sampled from it. "
        f"These frames are located at {times}.Please answer the following questions related to this video."
    )
