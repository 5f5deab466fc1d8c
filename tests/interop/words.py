"""The same algorithms in our words and in strongSwan's: slug, name in ``swanctl --list-algs``, word of a proposal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.contract import algorithms
from agents.contract.config import IkeProposal, IpsecProposal


@dataclass(frozen=True, slots=True)
class Word:
    """``name`` is what strongSwan lists and reports, ``keyword`` what its proposals say, ``bits`` 0 where no size."""

    name: str
    keyword: str
    bits: int = 0


def _encryption() -> dict[str, Word]:
    words = {
        "chacha20-poly1305": Word("CHACHA20_POLY1305", "chacha20poly1305"),
        "null": Word("NULL", "null"),
        "3des-cbc": Word("3DES_CBC", "3des"),
        "des-cbc": Word("DES_CBC", "des"),
    }
    for bits in (128, 192, 256):
        words[f"aes-{bits}-cbc"] = Word("AES_CBC", f"aes{bits}", bits)
        words[f"aes-{bits}-ctr"] = Word("AES_CTR", f"aes{bits}ctr", bits)
        words[f"camellia-{bits}-cbc"] = Word("CAMELLIA_CBC", f"camellia{bits}", bits)
        words[f"aes-{bits}-gmac"] = Word("NULL_AES_GMAC", f"aes{bits}gmac", bits)
        for icv in (8, 12, 16):
            words[f"aes-{bits}-gcm-{icv}"] = Word(f"AES_GCM_{icv}", f"aes{bits}gcm{icv}", bits)
            words[f"aes-{bits}-ccm-{icv}"] = Word(f"AES_CCM_{icv}", f"aes{bits}ccm{icv}", bits)
    return words


ENCRYPTION: Mapping[str, Word] = _encryption()
INTEGRITY: Mapping[str, Word] = {
    "hmac-sha1-96": Word("HMAC_SHA1_96", "sha1"),
    "hmac-sha2-256-128": Word("HMAC_SHA2_256_128", "sha256"),
    "hmac-sha2-384-192": Word("HMAC_SHA2_384_192", "sha384"),
    "hmac-sha2-512-256": Word("HMAC_SHA2_512_256", "sha512"),
    "aes-xcbc-96": Word("AES_XCBC_96", "aesxcbc"),
    "aes-cmac-96": Word("AES_CMAC_96", "aescmac"),
    "hmac-md5-96": Word("HMAC_MD5_96", "md5"),
}
PSEUDO_RANDOM: Mapping[str, Word] = {
    "prf-hmac-sha1": Word("PRF_HMAC_SHA1", "prfsha1"),
    "prf-hmac-sha2-256": Word("PRF_HMAC_SHA2_256", "prfsha256"),
    "prf-hmac-sha2-384": Word("PRF_HMAC_SHA2_384", "prfsha384"),
    "prf-hmac-sha2-512": Word("PRF_HMAC_SHA2_512", "prfsha512"),
    "prf-aes128-xcbc": Word("PRF_AES128_XCBC", "prfaesxcbc"),
    "prf-aes128-cmac": Word("PRF_AES128_CMAC", "prfaescmac"),
    "prf-hmac-md5": Word("PRF_HMAC_MD5", "prfmd5"),
}
KEY_EXCHANGE: Mapping[str, Word] = {
    "group-1": Word("MODP_768", "modp768"),
    "group-2": Word("MODP_1024", "modp1024"),
    "group-5": Word("MODP_1536", "modp1536"),
    "group-14": Word("MODP_2048", "modp2048"),
    "group-15": Word("MODP_3072", "modp3072"),
    "group-16": Word("MODP_4096", "modp4096"),
    "group-17": Word("MODP_6144", "modp6144"),
    "group-18": Word("MODP_8192", "modp8192"),
    "group-19": Word("ECP_256", "ecp256"),
    "group-20": Word("ECP_384", "ecp384"),
    "group-21": Word("ECP_521", "ecp521"),
    "group-22": Word("MODP_1024_160", "modp1024s160"),
    "group-23": Word("MODP_2048_224", "modp2048s224"),
    "group-24": Word("MODP_2048_256", "modp2048s256"),
    "group-27": Word("ECP_224_BP", "ecp224bp"),
    "group-28": Word("ECP_256_BP", "ecp256bp"),
    "group-29": Word("ECP_384_BP", "ecp384bp"),
    "group-30": Word("ECP_512_BP", "ecp512bp"),
    "group-31": Word("CURVE_25519", "curve25519"),
    "group-32": Word("CURVE_448", "curve448"),
    "ml-kem-768": Word("ML_KEM_768", "mlkem768"),
    "ml-kem-1024": Word("ML_KEM_1024", "mlkem1024"),
}


def ike_keywords(proposal: IkeProposal) -> str:
    """Return the proposal as strongSwan's ``proposals`` have it."""
    words = [ENCRYPTION[proposal.encryption]]
    if proposal.integrity is not None:
        words.append(INTEGRITY[proposal.integrity])
    words += [PSEUDO_RANDOM[proposal.prf], KEY_EXCHANGE[proposal.group]]
    return "-".join(word.keyword for word in words)


def esp_keywords(proposal: IpsecProposal, groups: tuple[str, ...] = ()) -> str:
    """Return the proposal as ``esp_proposals`` have it, with the groups for PFS."""
    assert proposal.encryption is not None, "AH takes a kernel"
    words = [ENCRYPTION[proposal.encryption]]
    if proposal.integrity is not None:
        words.append(INTEGRITY[proposal.integrity])
    return "-".join(word.keyword for word in (*words, *(KEY_EXCHANGE[group] for group in groups)))


def legacy(ike: tuple[IkeProposal, ...], esp: tuple[IpsecProposal, ...], groups: tuple[str, ...]) -> bool:
    """Whether any of it stands on the decrepit shelf, so that the document must allow it."""
    rows: list[algorithms.Encryption | algorithms.Integrity | algorithms.PseudoRandom | algorithms.KeyExchange] = []
    for proposal in ike:
        rows += [algorithms.PSEUDO_RANDOM[proposal.prf], algorithms.KEY_EXCHANGE[proposal.group]]
    suites = [(each.encryption, each.integrity) for each in ike] + [(each.encryption, each.integrity) for each in esp]
    rows += [algorithms.ENCRYPTION[encryption] for encryption, _ in suites if encryption]
    rows += [algorithms.INTEGRITY[integrity] for _, integrity in suites if integrity]
    rows += [algorithms.INTEGRITY[each.ah_integrity] for each in esp if each.ah_integrity]
    rows += [algorithms.KEY_EXCHANGE[group] for group in groups]
    return any(row.legacy for row in rows)
