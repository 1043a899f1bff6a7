"""Languages: the labels of the job in `job.yaml`, as the base model writes them best.

Each language has its own name for itself: a text in Finnish makes `suomi` far more likely than
`Finnish`.
"""

from __future__ import annotations

# ISO 639-1 code -> the language's own name.
NAMES = {
    "ar": "العربية",
    "cs": "čeština",
    "da": "dansk",
    "de": "Deutsch",
    "el": "Ελληνικά",
    "en": "English",
    "es": "español",
    "fi": "suomi",
    "fr": "français",
    "he": "עברית",
    "hu": "magyar",
    "id": "Bahasa Indonesia",
    "it": "italiano",
    "lt": "lietuvių",
    "lv": "latviešu",
    "nl": "Nederlands",
    "pl": "polski",
    "pt": "português",
    "ro": "română",
    "ru": "русский",
    "sv": "svenska",
    "tr": "Türkçe",
    "uk": "українська",
    "zh": "中文",
}

LABELS = tuple(f" {name}" for name in NAMES.values())  # the space belongs to a word's first token
