"""The key of a service, from an environment variable, and its model, if the service has only one.

No message contains the key. Imports the library of the service only to ask for the models.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from ...captioners.api.errors import ServiceStop
from ...process.errors import UsageError

KEY_VARIABLE = "OPENAI_API_KEY"
_LOOKS_LIKE_A_VARIABLE = re.compile(r"[A-Z]+(_[A-Z0-9]+)+")
_MAX_SECONDS = 15.0
"""Time limit of the request for the models: a usage error should come soon."""
_MAX_SHOWN_MODELS = 10


def api_key_of(variable: str | None, environment: Mapping[str, str]) -> str:
    """The key; empty for none. No message contains it, not even if it was given in place of the variable's name."""
    key = environment.get(variable or KEY_VARIABLE, "")
    shown = variable or KEY_VARIABLE
    if not _LOOKS_LIKE_A_VARIABLE.fullmatch(shown):
        shown = "that --api_key_env names"
    if not key and variable is not None:
        raise UsageError(
            f"the environment variable {shown} is not set or is empty; export it with the key, or give --api_key_env "
            "the name of the variable that holds the key (not the key itself)"
        )
    if not all("!" <= character <= "~" for character in key):
        raise UsageError(
            f"the key in the environment variable {shown} contains white space, a line break or a character that is "
            "not ASCII, which can't be sent in a header; export it without"
        )
    return key


def only_model(base_url: str, api_key: str, timeout: float) -> str:
    """The only model that the service lists.

    Raises:
        UsageError: there is none or more than one, or the service can't be asked.
    """
    try:
        return listed_model(base_url, api_key, timeout)
    except ServiceStop as error:
        raise UsageError(f"--model is not given, and the service can't be asked for its models: {error}") from error


def listed_model(base_url: str, api_key: str, timeout: float) -> str:
    """As `only_model`, for commands to which a service that can't be asked is no usage error.

    Raises:
        UsageError: there is none or more than one.
        ServiceStop: the service can't be reached, does not accept the key, or does not list models.
    """
    models = asyncio.run(_listed_models(base_url, api_key, min(timeout, _MAX_SECONDS)))
    if len(models) == 1:
        return models[0]
    if not models:
        raise UsageError(f"--model is not given, and {base_url} lists no model; give --model NAME")
    shown = ", ".join(models[:_MAX_SHOWN_MODELS])
    more = ", …" if len(models) > _MAX_SHOWN_MODELS else ""
    raise UsageError(f"--model is not given, and {base_url} lists {len(models)} models ({shown}{more}); give one")


async def _listed_models(base_url: str, api_key: str, timeout: float) -> list[str]:
    from ...captioners.api.service import Service  # imports the library of the service

    service = Service(base_url, api_key, timeout, 1)
    try:
        return await service.models()
    finally:
        await service.close()
