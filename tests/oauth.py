"""Gets a token with the PyPI package Authlib and does with it what can be done, for tests/oauth.rs.

    METHOD ISSUER BUNDLE CLIENT SECRET [CERTIFICATE KEY]

METHOD is client_secret_basic, client_secret_post, private_key_jwt (SECRET is then the file of a private key) or
tls_client_auth. The token is got from where the issuer's metadata say, used for a GET of /a, asked about, revoked, and used
again. Prints one JSON object that says what came of it.
"""

import json
import pathlib
import sys

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey

method, issuer, bundle, client, secret = sys.argv[1:6]
certificate = tuple(sys.argv[6:8]) or None


def prepared(session):
    session.verify = bundle
    session.cert = certificate
    # What stands in the environment is for others.
    session.trust_env = False
    return session


def by(name):
    return {"token_endpoint_auth_method": name, "revocation_endpoint_auth_method": name}


metadata = prepared(requests.Session()).get(f"{issuer}/.well-known/oauth-authorization-server", timeout=10).json()
assert metadata["issuer"] == issuer
assert method in metadata["token_endpoint_auth_methods_supported"]

if method == "private_key_jwt":
    private = ECKey.import_key(pathlib.Path(secret).read_text())
    session = OAuth2Session(client, private, **by(method))
    session.register_client_auth_method(PrivateKeyJWT(metadata["token_endpoint"], alg="ES256"))
elif method == "tls_client_auth":
    # Authlib's word for a client that only names itself in the body.
    session = OAuth2Session(client, **by("none"))
else:
    session = OAuth2Session(client, secret, **by(method))
session = prepared(session)

token = session.fetch_token(metadata["token_endpoint"], grant_type="client_credentials", timeout=10)
first = session.get(f"{issuer}/a", timeout=10).status_code
told = session.introspect_token(metadata["introspection_endpoint"], token=token["access_token"]).json()
answer = session.revoke_token(metadata["revocation_endpoint"], token=token["access_token"])
revoked = answer.status_code if answer.ok else answer.text
second = session.get(f"{issuer}/a", timeout=10).status_code
print(json.dumps({"first": first, "told": told, "revoked": revoked, "second": second}))
