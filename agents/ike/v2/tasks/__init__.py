"""One module per exchange: the initiator's side as a task, the responder's as a function ``respond``."""
