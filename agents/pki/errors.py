"""What this package raises.

::

    Exception
      CertificateError   a certificate or chain that is not taken; carries the event code
      KeyFileError       a private key file that is not used
"""

from __future__ import annotations


class CertificateError(Exception):
    """Why a certificate is refused: an event code, a sentence, and what was received and is configured.

    The texts hold what a peer sent only in the form of :func:`agents.pki.names.text`.
    """

    def __init__(self, code: str, message: str, *, received: str | None = None, configured: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.received = received
        self.configured = configured


class KeyFileError(Exception):
    """A private key that is not used; one sentence for the operator, never anything of the key."""
