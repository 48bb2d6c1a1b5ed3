//! The built-in service that shows what a guarded service sees.

use super::http_gate::MAX_FIELDS;

/// The answer to a request whose head, as a service would get it, is `head`: a JSON object with method, path, what the agent
/// vouches for, and every header.
pub(super) fn answer(head: &[u8]) -> Vec<u8> {
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS + 16];
    let mut request = httparse::Request::new(&mut storage);
    if request.parse(head).is_err() {
        return b"{}\n".to_vec();
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let vouched = |name: &str| {
        let found = request.headers.iter().find(|field| field.name == name);
        found.map_or(serde_json::Value::Null, |field| text(field.value).into())
    };
    let mut headers = serde_json::Map::new();
    for field in request.headers.iter() {
        let value = text(field.value);
        match headers.get_mut(field.name) {
            // A field that stands twice is shown as the one list that it is (RFC 9110 §5.3).
            Some(serde_json::Value::String(before)) => {
                before.push_str(", ");
                before.push_str(&value);
            }
            Some(_) | None => drop(headers.insert(field.name.to_owned(), value.into())),
        }
    }
    let document = serde_json::json!({
        "app": vouched("x-postern-app"),
        "developer": vouched("x-postern-developer"),
        "product": vouched("x-postern-product"),
        "credential": vouched("x-postern-credential"),
        "spiffe_id": vouched("x-postern-spiffe-id"),
        "method": request.method,
        "path": request.path,
        "headers": headers,
    });
    let mut body = serde_json::to_vec_pretty(&document).unwrap_or_default();
    body.push(b'\n');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_what_it_was_told() {
        let body = answer(b"GET /a HTTP/1.1\r\nhost: h\r\nx-postern-app: sample\r\n\r\n");

        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["app"], "sample");
        assert_eq!(document["spiffe_id"], serde_json::Value::Null);
        assert_eq!(document["headers"]["host"], "h");
    }
}
