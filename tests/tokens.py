"""Makes access tokens with the PyPI package PyJWT, for tests/tokens.rs.

    ISSUER AUDIENCE CLIENT    prints JSON: `jwks`, `tokens` by algorithm, and `forged` ones by other keys of the same name
"""

import json
import sys
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

MAKE = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


def main(issuer, audience, client):
    now = int(time.time())
    claims = {"iss": issuer, "aud": [audience], "sub": client, "client_id": client, "iat": now, "exp": now + 300, "jti": "1"}
    made = {"jwks": {"keys": []}, "tokens": {}, "forged": {}}
    for algorithm, make in MAKE.items():
        key, other = make(), make()
        header = {"typ": "at+jwt", "kid": f"key-{algorithm}"}
        public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
        made["jwks"]["keys"].append({**public, "kid": header["kid"], "alg": algorithm, "use": "sig"})
        made["tokens"][algorithm] = jwt.encode(claims, key, algorithm=algorithm, headers=header)
        made["forged"][algorithm] = jwt.encode(claims, other, algorithm=algorithm, headers=header)
    print(json.dumps(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
