"""Elliptic-curve Diffie-Hellman over brainpoolP224r1 (RFC 5639 section 3.3), key exchange method 27 (RFC 6954).

Here because ``cryptography`` carries the larger Brainpool curves and not this one, and there are peers that offer it.
It is arithmetic on Python integers and therefore not constant-time: the sequence of operations does not depend on the
scalar, but how long each takes may, and where a table is read does. Scalars are used for one exchange. Not here:
signatures, other curves.
"""

from __future__ import annotations

import functools

from agents.ike.crypto.errors import InvalidPublicValue

_P = 0xD7C134AA264366862A18302575D1D787B09F075797DA89F57EC8C0FF
_A = 0x68A5E62CA9CE6C1C299803A6C1530B514E182AD8B0042A59CAD29F43
_B = 0x2580F63CCFE44138870713B1A92369E33E2135D266DBB372386C400B
_GENERATOR = (
    0x0D9029AD2C7E5CF4340823B2A87DC68C9E4CE3174C1E6EFDEE12C07D,
    0x58AA56F772C0726F24C6B89E4ECDAC24354B9E99CAA3F6D3761402CD,
)
ORDER = 0xD7C134AA264366862A18302575D0FB98D116BC4B6DDEBCA3A5A7939F
_OCTETS = 28
_WINDOWS = 56
"""Of four bits, for the 224 of a scalar."""
_ONES = sum(16**window for window in range(_WINDOWS))

_Point = tuple[int, int]
_Jacobian = tuple[int, int, int]
"""X, Y, Z for the point (X / Z^2, Y / Z^3); Z is 0 for the point at infinity."""
_INFINITY: _Jacobian = (1, 1, 0)


class PrivateScalar:
    """One private scalar, 0 < scalar < :data:`ORDER`, and its public point as x and y."""

    __slots__ = ("_scalar", "public")

    def __init__(self, scalar: int) -> None:
        self._scalar = scalar
        x, y = _multiply_generator(scalar)
        self.public = x.to_bytes(_OCTETS, "big") + y.to_bytes(_OCTETS, "big")

    def shared(self, peer_public: bytes) -> bytes:
        """Return the x coordinate of the shared point. Raises InvalidPublicValue (RFC 6989 section 2.3).

        The curve's cofactor is 1, so a point of the curve is a point of the group.
        """
        point = int.from_bytes(peer_public[:_OCTETS], "big"), int.from_bytes(peer_public[_OCTETS:], "big")
        if not on_curve(point):
            raise InvalidPublicValue("the public value is not a point of the curve")
        return _multiply(self._scalar, point)[0].to_bytes(_OCTETS, "big")


def on_curve(point: _Point) -> bool:
    """Return whether both coordinates are reduced and fulfil y^2 = x^3 + Ax + B."""
    x, y = point
    return max(x, y) < _P and (y * y - (x * x + _A) * x - _B) % _P == 0


def prepare() -> None:
    """Make the generator's table now, not when the first peer asks."""
    _table()


@functools.cache
def _table() -> tuple[tuple[_Jacobian, ...], ...]:
    """Return for each window of the scalar the 1 to 16 times 16^window * generator."""
    rows, base = [], (*_GENERATOR, 1)
    for _ in range(_WINDOWS):
        row = [base]
        for _ in range(15):
            row.append(_add(row[-1], base))
        rows.append(tuple(row))
        base = row[-1]
    return tuple(rows)


def _multiply_generator(scalar: int) -> _Point:
    """Return scalar * generator by one addition for each window of four bits.

    Every window adds its digit and one more, so that none adds nothing: the ones are taken off the scalar before.
    """
    digits = (scalar - _ONES) % ORDER
    total = _INFINITY
    for window, row in enumerate(_table()):
        total = _add(total, row[digits >> (4 * window) & 15])
    return _affine(total)


def _affine(point: _Jacobian) -> _Point:
    x, y, z = point
    inverse = pow(z, -1, _P)
    square = inverse * inverse % _P
    return x * square % _P, y * square * inverse % _P


def _multiply(scalar: int, point: _Point) -> _Point:
    """Return scalar * point for 0 < scalar < ORDER, by a Montgomery ladder of as many steps for every scalar."""
    # scalar + ORDER or scalar + 2 * ORDER: the same point, and always one bit longer than the order.
    scalar += ORDER
    if not scalar >> ORDER.bit_length():
        scalar += ORDER
    low: _Jacobian = (point[0], point[1], 1)
    high = _double(low)
    for position in range(ORDER.bit_length() - 1, -1, -1):
        if scalar >> position & 1:
            low, high = _add(low, high), _double(high)
        else:
            low, high = _double(low), _add(low, high)
    return _affine(low)


def _double(point: _Jacobian) -> _Jacobian:
    x, y, z = point
    yy = y * y % _P
    s = 4 * x * yy % _P
    zz = z * z % _P
    m = (3 * x * x + _A * zz * zz) % _P
    x3 = (m * m - 2 * s) % _P
    return x3, (m * (s - x3) - 8 * yy * yy) % _P, 2 * y * z % _P


def _add(left: _Jacobian, right: _Jacobian) -> _Jacobian:
    """Add two points."""
    x1, y1, z1 = left
    x2, y2, z2 = right
    if not z1:
        return right
    if not z2:
        return left
    zz1, zz2 = z1 * z1 % _P, z2 * z2 % _P
    u1 = x1 * zz2 % _P
    s1 = y1 * zz2 * z2 % _P
    h = (x2 * zz1 - u1) % _P
    r = (y2 * zz1 * z1 - s1) % _P
    if not h:
        return _INFINITY if r else _double(left)
    hh = h * h % _P
    hhh = h * hh % _P
    v = u1 * hh % _P
    x3 = (r * r - hhh - 2 * v) % _P
    return x3, (r * (v - x3) - s1 * hhh) % _P, h * z1 * z2 % _P
