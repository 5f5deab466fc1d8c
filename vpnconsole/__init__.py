"""The console: what operators mean, compiled into one document per gateway. Django lives here and only here."""

# A shared task sent from a web process belongs to this application only if it exists by then.
from vpnconsole.celery import app as celery_app

__all__ = ["celery_app"]
