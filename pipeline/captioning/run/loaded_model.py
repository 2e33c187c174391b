"""A model in this process: its framework is imported and its weights are loaded once, when they are first needed."""

from __future__ import annotations

from collections.abc import Callable

from ..backends import Backend
from ..captioners.base import Captioner, CaptionerSource


class LoadedModel:
    """The model of a source.

    activate: imports the framework and returns it; is called once.
    """

    def __init__(self, source: CaptionerSource, activate: Callable[[], Backend]) -> None:
        self.source, self._activate = source, activate
        self._backend: Backend | None = None
        self._captioner: Captioner | None = None

    @property
    def is_active(self) -> bool:
        """Whether the framework has been imported."""
        return self._backend is not None

    @property
    def backend(self) -> Backend:
        """The framework; the first use imports it."""
        if self._backend is None:
            self._backend = self._activate()
        return self._backend

    def check(self) -> str:
        """Check that the weights fit and that the model can compute in the type; returns the computing type.

        Raises:
            UsageError: see `CaptionerSource.check_weights` and `check_dtype`.
        """
        self.source.check_dtype(self.backend.dtype_name)
        if self._captioner is None:
            self.source.check_weights()
        return self.backend.dtype_name

    @property
    def captioner(self) -> Captioner:
        """The captioner; the first use loads it."""
        if self._captioner is None:
            self._captioner = self.source.load(self.backend)
        return self._captioner
