"""Signs and verifies requests with the PyPI package http-message-signatures, for tests/signatures.rs.

    keygen ALGORITHM FILE           a private key in FILE, its public half in FILE.pub
    sign ALGORITHM FILE ID BODY     prints the fields of a signed POST to https://localhost/a
    verify ALGORITHM FILE BODY FIELDS
                                    verifies the fields of a signed POST to https://localhost/a?b=%20c
"""

import pathlib
import secrets
import sys

import http_message_signatures as hms
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

ALGORITHMS = {
    "hmac-sha256": hms.algorithms.HMAC_SHA256,
    "ed25519": hms.algorithms.ED25519,
    "ecdsa-p256-sha256": hms.algorithms.ECDSA_P256_SHA256,
}


class Request:
    def __init__(self, url, fields):
        self.method = "POST"
        self.url = url
        self.headers = fields


class Keys(hms.HTTPSignatureKeyResolver):
    def __init__(self, file):
        text = pathlib.Path(file).read_bytes()
        if text.startswith(b"pstn_hs_"):
            self.private = self.public = text.strip()
        else:
            self.private = serialization.load_pem_private_key(text, None)
            self.public = self.private.public_key()

    def resolve_private_key(self, key_id):
        return self.private

    def resolve_public_key(self, key_id):
        return self.public


def keygen(algorithm, file):
    key = ed25519.Ed25519PrivateKey.generate() if algorithm == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pathlib.Path(file).write_bytes(private)
    pathlib.Path(file).with_suffix(".pub").write_bytes(public)


def sign(algorithm, file, key_id, body):
    request = Request("https://localhost/a", {})
    signer = hms.HTTPMessageSigner(signature_algorithm=ALGORITHMS[algorithm], key_resolver=Keys(file))
    signer.sign(
        request,
        key_id=key_id,
        nonce=secrets.token_urlsafe(16),
        covered_component_ids=("@method", "@authority", "@target-uri"),
        body=body.encode(),
    )
    for name, value in request.headers.items():
        print(f"{name}: {value}")


def verify(algorithm, file, body, fields):
    fields = dict(line.split(": ", 1) for line in fields.splitlines())
    request = Request("https://localhost/a?b=%20c", fields)
    verifier = hms.HTTPMessageVerifier(signature_algorithm=ALGORITHMS[algorithm], key_resolver=Keys(file))
    results = verifier.verify(request, body=body.encode())
    assert len(results) == 1, results
    assert results[0].body == body.encode(), results


{"keygen": keygen, "sign": sign, "verify": verify}[sys.argv[1]](*sys.argv[2:])
