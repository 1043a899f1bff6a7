"""Real weights on a laptop: Google's pretrained Gemma 3 270M, and a job on it.

`__main__.py` says what it costs. It uses `fetch.py` (packages to one GGUF file), `folder.py` (the
GGUF file to a model folder; `weights.py` and `vocabulary.py` are its two halves) and `score.py`.
"""
