"""From a row to token ids: templates, chat format, control-token safety, length."""
