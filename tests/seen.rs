//! What is told afterwards: how a refusal is put, why a request fared as it did, who may do what, and what was used.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(clippy::allow_attributes, reason = "an expectation would not hold where everything is used")]
#[allow(dead_code, unused_imports, reason = "each family of scenarios uses its part")]
mod support;

use support::{Answer, Identity, Scene, Service, World};

/// The same GET by HTTP/1.1 and by HTTP/2.
async fn both(world: &World, identity: Option<&Identity>, fields: &[(&str, &str)]) -> [Answer; 2] {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let one = world.talk(identity).await.get("/a", &lines).await;
    let two = world.h2(identity).await.get("/a", fields).await;
    [one, two]
}

/// A key of the right form that nobody has.
fn invented() -> String {
    let key = postern::credential::ApiKey::generate(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    String::from_utf8(key.text().expose_secret().to_vec()).unwrap()
}

#[tokio::test]
async fn callers_of_a_service_that_moved_here_from_apigee_are_refused_as_they_were_there() {
    let service = Service::start().await;
    let mut scene = Scene::guarding(service.address);
    scene.amend_config("id = \"orders\"\n", "id = \"orders\"\nerror_format = \"apigee\"\n");
    scene.service("gone", "{ip}:9", "base_path = \"/gone\"\nerror_format = \"apigee\"\n");
    let key = scene.app_with_key("by-key");
    scene.amend_registry("service = \"orders\"", "service = \"*\"");
    let world = scene.start().await;
    let (wrong, stranger) = (invented(), world.identity("stranger"));
    assert_eq!(world.try_get(None, &key.line()).await.unwrap().status, 200);

    let (bare, unknown) = (Vec::new(), vec![("x-api-key", wrong.as_str())]);
    let cases = [
        (None, &bare, "steps.oauth.v2.FailedToResolveAPIKey", "Failed to resolve API Key variable"),
        (None, &unknown, "oauth.v2.InvalidApiKey", "Invalid ApiKey"),
        (
            Some(&stranger),
            &bare,
            "oauth.v2.InvalidApiKeyForGivenResource",
            "Invalid ApiKey for given resource",
        ),
    ];
    for (identity, fields, errorcode, faultstring) in cases {
        for answer in both(&world, identity, fields).await {
            assert_eq!(answer.status, 401, "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert!(answer.header("www-authenticate").unwrap().starts_with("ApiKey realm="), "{answer:?}");
            assert!(answer.header("x-request-id").is_some() && answer.header("date").is_some());
            let expected = serde_json::json!(
                {"fault": {"faultstring": faultstring, "detail": {"errorcode": errorcode}}}
            );
            assert_eq!(answer.json(), expected);
        }
    }
    let answer = world.talk(None).await.get("/gone", &key.line()).await;
    assert_eq!(answer.status, 503);
    let code = answer.json()["fault"]["detail"]["errorcode"].clone();
    assert_eq!(code, "messaging.adaptors.http.flow.ServiceUnavailable");
}
