"""Imported before Ray Data by a process that forks, so that no two forks draw the same ids.

Ray's generator of random ids takes its seed when the first id is drawn, and forks share what was
drawn before. An import of Ray Data draws ids, for the classes of its actors.
"""

from __future__ import annotations

import os

import ray.actor
from ray._raylet import ActorClassID


class OwnActorClassID:
    """In the place of the class of which `ray.actor` wants only a random one."""

    @staticmethod
    def from_random() -> ActorClassID:
        """By the kernel's generator, which forks do not share."""
        return ActorClassID(os.urandom(ActorClassID.size()))


ray.actor.ActorClassID = OwnActorClassID
