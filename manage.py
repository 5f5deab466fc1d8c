#!/usr/bin/env python
"""Django's door: ``python manage.py COMMAND``."""

import sys

from django.core.management import execute_from_command_line

from vpnconsole.env import select_settings

if __name__ == "__main__":
    select_settings()
    execute_from_command_line(sys.argv)
