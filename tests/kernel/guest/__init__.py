"""What runs inside the User Mode Linux machine: started by ``deploy.lab.uml``, asserted on by ``tests/kernel``."""
