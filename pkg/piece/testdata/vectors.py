#!/usr/bin/env python3
"""Writes vectors.json beside itself, from docs/protocol/piece.md alone.

This is a second implementation of the formats, without a line of the Go code or
of a protobuf library, so that the vectors check the page and not the code that
reads them. It needs the Python package "cryptography" for Ed25519.
"""
import base64
import hashlib
import json
import pathlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
B58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def piece_size(size):
    ps = 256 * KIB
    while ps < 4 * MIB and ps * 1024 < size:
        ps *= 2
    return ps


def geometry(size):
    ps = piece_size(size)
    n = -(-size // ps)
    return {"size": size, "pieceSize": ps, "pieces": n, "lastPiece": size - (n - 1) * ps if n else 0}


def pieces(blob):
    ps = piece_size(len(blob))
    return [blob[o : o + ps] for o in range(0, len(blob), ps)]


def bitfield(n, have):
    b = bytearray((n + 7) // 8)
    for i in have:
        b[i // 8] |= 0x80 >> (i % 8)
    return {"pieces": n, "set": have, "hex": b.hex()}


def varint(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def prefixed(b):
    return varint(len(b)) + b


def number(field, n):  # proto3: a default value is absent
    return varint(field << 3) + varint(n) if n else b""


def octets(field, b):
    return varint(field << 3 | 2) + prefixed(b) if b else b""


def run_payload(digest, size, first, hashes, final):
    return octets(1, digest.encode()) + number(2, size) + number(3, first) + octets(4, b"".join(hashes)) + number(5, int(final))


def revocation_payload(digest):
    return octets(1, digest.encode())


class Seeder:
    def __init__(self, seed):
        self.seed = seed
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        raw = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = b"\x08\x01" + b"\x12\x20" + raw  # Type Ed25519, Data

    def peer_id(self):
        n = int.from_bytes(b"\x00" + prefixed(self.public), "big")  # identity multihash
        out = ""
        while n:
            n, r = divmod(n, 58)
            out = B58[r] + out
        return "1" + out  # for the leading zero byte

    def seal(self, typ, payload, domain=b"samara-piece-run"):
        sig = self.key.sign(prefixed(domain) + prefixed(typ) + prefixed(payload))
        return octets(1, self.public) + octets(2, typ) + octets(3, payload) + octets(5, sig)


RUN, REVOCATION = b"/samara/piece-run", b"/samara/piece-revocation"


def cid(digest):
    alg, hexed = digest.split(":")
    raw = b"\x01\x55" + {"sha256": b"\x12\x20", "sha512": b"\x13\x40"}[alg] + bytes.fromhex(hexed)
    return {"digest": digest, "bytes": raw.hex(), "cid": "b" + base64.b32encode(raw).decode().lower().rstrip("=")}


def main():
    seeder = Seeder(bytes(range(32)))
    blob = bytes(i % 251 for i in range(600_000))
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    digest512 = "sha512:" + hashlib.sha512(blob).hexdigest()
    empty = "sha256:" + hashlib.sha256(b"").hexdigest()
    hashes = [hashlib.sha256(p).digest() for p in pieces(blob)]
    size = len(blob)

    def run(name, digest, size, first, hashes, final):
        payload = run_payload(digest, size, first, hashes, final)
        return {
            "name": name, "digest": digest, "size": size, "first": first, "hashes": [h.hex() for h in hashes],
            "final": final, "payload": payload.hex(), "envelope": seeder.seal(RUN, payload).hex(),
        }

    def revocation(digest):
        payload = revocation_payload(digest)
        return {"digest": digest, "payload": payload.hex(), "envelope": seeder.seal(REVOCATION, payload).hex()}

    def refused(why, payload=None, envelope=None):
        return {"why": why, "envelope": (envelope or seeder.seal(RUN, payload)).hex()}

    good = run_payload(digest, size, 1, hashes[1:2], False)
    sealed = seeder.seal(RUN, good)
    sha384 = "sha384:" + hashlib.sha384(blob).hexdigest()
    vectors = {
        "geometry": [geometry(s) for s in (
            0, 1, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB, 256 * MIB - 1, 256 * MIB, 256 * MIB + 1, 512 * MIB,
            512 * MIB + 1, GIB, GIB + 1, 2 * GIB, 2 * GIB + 1, 4 * GIB, 4 * GIB + 1, 10 * GIB, TIB - 1, TIB)],
        "geometryRefused": [-1, TIB + 1],
        "bitfield": [bitfield(n, s) for n, s in (
            (0, []), (1, []), (1, [0]), (8, [0, 7]), (9, [8]), (10, [0, 3, 9]), (16, list(range(16))), (17, list(range(17))))],
        "bitfieldRefused": [
            {"pieces": 0, "hex": "00"}, {"pieces": 1, "hex": ""}, {"pieces": 1, "hex": "40"}, {"pieces": 8, "hex": "ff00"},
            {"pieces": 9, "hex": "ff"}, {"pieces": 9, "hex": "ffff"}, {"pieces": 10, "hex": "9060"}],
        "cid": [cid(d) for d in (empty, digest, digest512)],
        "blob": {"about": "600000 bytes, byte i is i mod 251", "digest": digest, "size": size, "pieces": [h.hex() for h in hashes]},
        "signer": {"seed": seeder.seed.hex(), "publicKey": seeder.public.hex(), "peer": seeder.peer_id()},
        "run": [
            run("provisional, one piece in the middle", digest, size, 1, hashes[1:2], False),
            run("provisional, from piece 0", digest, size, 0, hashes[:2], False),
            run("provisional, all hashes", digest, size, 0, hashes, False),
            run("final", digest, size, 0, hashes, True),
            run("final, sha512", digest512, size, 0, hashes, True),
            run("final, empty blob", empty, 0, 0, [], True),
        ],
        "revocation": [revocation(digest), revocation(digest512)],
        "refused": [
            refused("final without all hashes", run_payload(digest, size, 0, hashes[:2], True)),
            refused("no hash", run_payload(digest, size, 0, [], False)),
            refused("empty blob, not final", run_payload(empty, 0, 0, [], False)),
            refused("more hashes than pieces", run_payload(digest, size, 1, hashes, False)),
            refused("first behind the last piece", run_payload(digest, size, 4, hashes[:1], False)),
            refused("first is 2^32-1", run_payload(digest, size, 2**32 - 1, hashes[:1], False)),
            refused("hashes cut short", run_payload(digest, size, 0, [hashes[0][:31]], False)),
            refused("size above 1 TiB", run_payload(digest, TIB + 1, 0, hashes[:1], False)),
            refused("size is -1 in two's complement", run_payload(digest, 2**64 - 1, 0, hashes[:1], False)),
            refused("no digest", run_payload("", size, 1, hashes[1:2], False)),
            refused("digest too short", run_payload(digest[:-1], size, 1, hashes[1:2], False)),
            refused("digest in upper case", run_payload("sha256:" + digest[7:].upper(), size, 1, hashes[1:2], False)),
            refused("digest of another algorithm", run_payload(sha384, size, 1, hashes[1:2], False)),
            refused("unknown field in the payload", good + number(9, 1)),
            refused("default value written out", good + b"\x28\x00"),
            refused("field written twice", good + number(3, 1)),
            refused("varint longer than needed", good.replace(number(3, 1), b"\x18\x81\x00")),
            refused("fields out of order", number(2, size) + octets(1, digest.encode()) + number(3, 1) + octets(4, hashes[1])),
            refused("revocation where a run is wanted", envelope=seeder.seal(REVOCATION, revocation_payload(digest))),
            refused("run under another payload type", envelope=seeder.seal(b"/samara/other", good)),
            refused("run signed for another domain", envelope=seeder.seal(RUN, good, b"libp2p-peer-record")),
            refused("last bit of the signature flipped", envelope=sealed[:-1] + bytes([sealed[-1] ^ 1])),
            refused("signature made by another key", envelope=sealed.replace(seeder.public, Seeder(bytes(32)).public)),
            refused("unknown field in the envelope", envelope=sealed + number(9, 1)),
            refused("envelope cut short", envelope=sealed[:-1]),
            refused("nothing", envelope=b"\x00"),
        ],
    }
    out = pathlib.Path(__file__).with_name("vectors.json")
    out.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
