"""What Gemma is: models, their memory, the GPUs they fit on and how fast they can be.

Arithmetic on data: nothing here imports vLLM or Ray or looks at files of a run. The one exception
is `tiny`, which builds small random models for tests and needs torch.
"""
