"""Family: facts about Gemma: its models, their memory, the GPUs that they fit on, their speed.

This room is arithmetic on data and runs in any process, mostly in the driver. Nothing here imports
vLLM or Ray, or reads files of a run. The one exception is `tiny`: it writes small random models
for tests, with numpy and `tokenizers`.
"""
