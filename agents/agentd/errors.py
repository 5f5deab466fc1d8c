"""What can go wrong in ``agentd``; each text is a sentence for a person."""

from __future__ import annotations


class AgentError(Exception):
    """Base of everything this package raises."""


class NotEnrolledError(AgentError):
    """The gateway has no identity yet, or one that cannot be read."""


class EnrolmentError(AgentError):
    """Enrolment did not succeed; nothing was stored."""


class HostError(AgentError):
    """The kernel refused a change of routes, links or settings: which one, on what, and the errno."""

    def __init__(self, operation: str, target: str, errno: int, reason: str) -> None:
        super().__init__(f"{operation} {target}: {reason}")
        self.operation = operation
        self.target = target
        self.errno = errno
        self.reason = reason


class OutdatedError(AgentError):
    """A document older than the one in force was offered."""

    def __init__(self, generation: int, digest: str) -> None:
        super().__init__(f"generation {generation} is in force, which is newer")
        self.generation = generation
        self.digest = digest


class ConflictError(AgentError):
    """Another document of the generation in force was offered."""

    def __init__(self, generation: int, digest: str) -> None:
        super().__init__(f"generation {generation} is in force with other content")
        self.generation = generation
        self.digest = digest


class InvalidError(AgentError):
    """A document that cannot be read or cannot be applied on this machine; ``path`` names the field."""

    def __init__(self, path: str, problem: str, generation: int = 0) -> None:
        super().__init__(f"{path or 'document'}: {problem}")
        self.path = path
        self.problem = problem
        self.generation = generation
