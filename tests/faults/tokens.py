"""Session tokens that a `credential_process` gives out, for tests in which they expire."""

from __future__ import annotations

import datetime
import json
from pathlib import Path


class Tokens:
    """A profile of AWS in `config`; its `credential_process` gives out the token of `give`."""

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()
        self._path, self.config, self.now = folder / "token.json", folder / "aws-config", ""
        self.config.write_text(f"[default]\ncredential_process = /bin/cat {self._path}\n")
        self.give("first")

    def give(self, token: str, *, hours: float | None = None) -> None:
        """This session token from now on; `hours` from now it says that it expires."""
        record = {
            "Version": 1,
            "AccessKeyId": f"key-{token}",
            "SecretAccessKey": "secret",
            "SessionToken": token,
        }
        if hours is not None:
            end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
            record["Expiration"] = end.isoformat()
        self.put(json.dumps(record))
        self.now = token

    def put(self, text: str) -> None:
        """Anything, as what the process gives out."""
        made = self._path.with_suffix(".new")
        made.write_text(text)
        made.replace(self._path)

    def remove(self) -> None:
        """The process fails from now on."""
        self._path.unlink()
