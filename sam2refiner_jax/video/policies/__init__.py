"""Memory policies: which tracked frames are remembered, which are attended to, and which mask is the object's."""

from .base import (
    MEMORY_POLICIES,
    Candidates,
    Choice,
    Found,
    MemoryPolicy,
    Official,
    PromptFacts,
    Recalled,
    Remembered,
    Situation,
    memory_policy,
    register_memory_policy,
)
from .motion import Motion
from .quality import Quality
from .tree import Tree

__all__ = [
    "MEMORY_POLICIES",
    "Candidates",
    "Choice",
    "Found",
    "MemoryPolicy",
    "Motion",
    "Official",
    "PromptFacts",
    "Quality",
    "Recalled",
    "Remembered",
    "Situation",
    "Tree",
    "memory_policy",
    "register_memory_policy",
]
