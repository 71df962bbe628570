"""Everything static is in pyproject.toml; this file only names the compiled part."""

from setuptools import setup

setup(cffi_modules=["shmbpf/_build.py:ffibuilder"])
