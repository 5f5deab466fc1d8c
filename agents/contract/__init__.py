"""The one thing console and agent share: documents, status, events, actions.

Standard library only. A value here is frozen, has a strict codec (:mod:`agents.contract.codec`) and a golden file per
schema version under ``tests/golden/contract`` that must load for ever.
"""
