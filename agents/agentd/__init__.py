"""The process that speaks with the console and keeps the gateway as its document says.

``enrol`` and ``identity`` make and keep what proves who the gateway is; ``api`` admits the console and nobody else;
``ledger`` accepts or refuses documents; ``reconciler`` with ``parts`` observes, plans and applies; ``journal`` keeps
what happened; ``iked_link`` speaks with the IKE daemon. No IKE, no ESP: those are other processes, met over local
sockets.

Errors: ``AgentError`` > ``NotEnrolledError``, ``EnrolmentError``, ``HostError``, and the ledger's ``OutdatedError``,
``ConflictError`` and ``InvalidError``.
"""
