"""The zones of the tests' own DNS: signed, unsigned, and broken in each way that DNSSEC can be."""

from __future__ import annotations

from tests.nameservers import Signing, Zone

BROKEN_RECORDS = """
@ A 192.0.2.66
@ MX 10 mail
mail A 192.0.2.66
@ TXT "v=spf1 ip4:192.0.2.66 -all"
"""

SIGNED = Zone(
    "signed.test.",
    """
@ A 192.0.2.1
@ AAAA 2001:db8::1
@ MX 10 Mail
@ MX 20 backup.unsigned.test.
@ TXT "v=spf1 " "mx -all"
mail A 192.0.2.2
mail AAAA 2001:db8::2
_25._tcp.mail TLSA 3 1 1 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
_imaps._tcp SRV 0 1 993 mail
null MX 0 .
only-v4 A 192.0.2.4
*.wild TXT "wild"
alias CNAME alias2
alias2 CNAME mail
to-unsigned CNAME host.unsigned.test.
to-tampered CNAME mail.tampered.test.
to-nothing CNAME nothing
loop1 CNAME loop2
loop2 CNAME loop1
"""
    + "".join(f'long TXT "{number:03} {"x" * 200}"\n' for number in range(100))
    + "".join(f"chain{number} CNAME chain{number + 1}\n" for number in range(1, 20)),
)
NSEC3 = Zone("nsec3.test.", "@ A 192.0.2.3\nmail A 192.0.2.3", Signing.NSEC3)
UNSIGNED = Zone(
    "unsigned.test.",
    """
@ A 192.0.2.5
@ MX 10 mail.signed.test.
host A 192.0.2.6
backup A 192.0.2.7
to-signed CNAME mail.signed.test.
""",
    Signing.NONE,
)
BROKEN = tuple(
    Zone(f"{signing.name.lower().replace('_', '-')}.test.", BROKEN_RECORDS, signing)
    for signing in (Signing.EXPIRED, Signing.FUTURE, Signing.TAMPERED, Signing.WRONG_KEY, Signing.STRIPPED)
)
REVERSE = Zone(
    "2.0.192.in-addr.arpa.",
    """
2 PTR mail.signed.test.
7 PTR backup.unsigned.test.
8 PTR mail.signed.test.
66 PTR mail.tampered.test.
""",
)
REVERSE6 = Zone("8.b.d.0.1.0.0.2.ip6.arpa.", "2" + ".0" * 23 + " PTR mail.signed.test.\n")
BLOCKLIST = Zone(
    "blocklist.test.",
    """
2.0.0.127 A 127.0.0.2
66.2.0.192 A 127.0.0.4
66.2.0.192 TXT "Listed, see https://blocklist.test/?ip=192.0.2.66"
""",
    Signing.NONE,
)

ZONES = (SIGNED, NSEC3, UNSIGNED, *BROKEN, REVERSE, REVERSE6, BLOCKLIST)
