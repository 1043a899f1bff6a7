"""Storage: everything that reads or writes files and objects; the only room with file systems.

Its modules run in every process: driver, tasks, GPU actors, and commands such as `status`.
"""
