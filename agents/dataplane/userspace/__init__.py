"""ESP in pure Python, batch first: octets and time in, octets and notices out. Sockets and TUNs are ``espd``'s."""
