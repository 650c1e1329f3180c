"""Runners of golden cases: a file a topic, each with `RUNNERS`, a mapping of patterns to functions.

A pattern is matched against `family/file name`. A function gets the case's path and its family's folder and answers
with checks; it raises UnsupportedCaseError for a case that it does not know, and then the next one is asked.
"""
