"""Specs made live: programs and objects in a namespace, and running a program in this process."""
