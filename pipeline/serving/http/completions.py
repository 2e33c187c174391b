"""`POST /v1/chat/completions`: from a request to a question."""

from __future__ import annotations

from starlette.requests import Request

from ..messages import Ask
from .bodies import check_headers, read_body
from .chat import ChatRequest, chat_request
from .context import Context
from .endpoint import Asked
from .errors import RequestError
from .generation import video_sampling
from .json_body import json_object
from .media import StoredMedia, store_media
from .responses import ChatForm
from .spool import QuestionFiles


async def read_completion(context: Context, request: Request, files: QuestionFiles) -> Asked:
    """See `endpoint.Reader`."""
    check_headers(request.headers, "application/json")
    with context.bodies.share() as share:
        body = await read_body(request.headers, request.receive, context.settings.limits, share)
        chat = chat_request(await json_object(body, share), context.settings)
        del body
        media = await store_media(chat.conversation.media, chat.video.fps or 0.0, files, context.settings)
    return Asked(_ask(chat, media, context), ChatForm(context.settings.model.name, chat.includes_usage))


def _ask(chat: ChatRequest, media: StoredMedia, context: Context) -> Ask:
    model = context.settings.model
    video = chat.video
    if media.are_frames and video.num_frames not in (None, media.sent):
        message = f"the video has {media.sent} frames, and num_frames is {video.num_frames}; leave it out"
        raise RequestError(message, "media_io_kwargs.video.num_frames", "invalid_value")
    return Ask(
        id=next(context.ids),
        question=chat.conversation.question or model.question,
        options=chat.options,
        system=chat.conversation.system,
        media=media.paths,
        are_frames=media.are_frames,
        frame_rate=media.rate,
        sampling=None if media.are_frames else video_sampling(video, model),
        stop=chat.stop,
        streams=chat.streams,
        ignores_stop_tokens=chat.ignores_stop_tokens,
    )
