"""Captions every clip of a meta table. `docs/architecture.md` describes the packages."""

from .process.blas import choose_kernels

choose_kernels()  # here, because it has no effect after the first import of numpy
