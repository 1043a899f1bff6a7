"""Prompts: takes a row to token ids: templates, chat format, control-token safety, length.

Mostly runs in Ray CPU tasks. The driver also renders rows, to check, preview and sort a job.
"""
