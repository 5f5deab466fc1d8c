"""The console: what operators mean, compiled into one document per gateway. Django lives here and only here."""
