"""Everything static is in pyproject.toml; this file names the compiled part, which keeps to Python's stable ABI."""

from setuptools import setup

setup(cffi_modules=["shmbpf/_build.py:ffibuilder"], options={"bdist_wheel": {"py_limited_api": "cp311"}})
