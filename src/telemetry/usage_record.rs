//! One record for each inbound request, with the fields that Apigee's analytics know and some of ours.
//!
//! There is no `access_token`: what names the credential is `client_id`, which is no secret. Times are in milliseconds of
//! Unix time; those of the service's side are 0, since they are not measured.

use super::AccessEvent;
use super::access_log::{push, quote};

/// Writes `event` as a line of JSON for `organization`.
pub(super) fn write(out: &mut Vec<u8>, event: &AccessEvent<'_>, organization: &str) {
    let start = i64::try_from(event.at.to_offset_date_time().unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let end = start.saturating_add(i64::try_from(event.duration.as_millis()).unwrap_or(i64::MAX));
    out.push(b'{');
    let mut record = Record { out, first: true };
    record.number("client_received_start_timestamp", start);
    record.number("client_received_end_timestamp", start);
    for unknown in [
        "target_sent_start_timestamp",
        "target_sent_end_timestamp",
        "target_received_start_timestamp",
        "target_received_end_timestamp",
    ] {
        record.number(unknown, 0);
    }
    record.number("client_sent_start_timestamp", end);
    record.number("client_sent_end_timestamp", end);
    record.text("recordType", "APIAnalytics");
    record.text("apiproxy", event.service);
    record.text("request_uri", event.path);
    record.text("request_path", event.path);
    record.text("request_verb", event.method);
    record
        .text("client_ip", &event.peer.map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default());
    record.text("useragent", event.user_agent);
    record.text("apiproxy_revision", event.registry);
    record.number("response_status_code", i64::from(event.status));
    record.text("developer_email", event.developer);
    record.text("developer_app", event.app);
    record.text("client_id", event.credential.1);
    record.text("api_product", event.product);
    record.text("organization", organization);
    record.text("environment", event.door);
    record.text("gateway_source", "postern");
    record.text("gateway_flow_id", event.request_id);
    record.text("auth_method", event.credential.0);
    record.text("decision_code", event.code);
    record.text("config_version", event.registry);
    record.text("operation", event.operation);
    record.number("request_size", i64::try_from(event.received).unwrap_or(i64::MAX));
    record.number("response_size", i64::try_from(event.sent).unwrap_or(i64::MAX));
    out.extend_from_slice(b"}\n");
}

struct Record<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Record<'_> {
    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        quote(self.out, name);
        self.out.push(b':');
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        quote(self.out, value);
    }

    fn number(&mut self, name: &str, value: i64) {
        self.name(name);
        push(self.out, format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GOLDEN: &str = concat!(
        r#"{"client_received_start_timestamp":1767225600000,"client_received_end_timestamp":1767225600000,"#,
        r#""target_sent_start_timestamp":0,"target_sent_end_timestamp":0,"target_received_start_timestamp":0,"#,
        r#""target_received_end_timestamp":0,"client_sent_start_timestamp":1767225600012,"#,
        r#""client_sent_end_timestamp":1767225600012,"recordType":"APIAnalytics","apiproxy":"orders","#,
        r#""request_uri":"/orders/7","request_path":"/orders/7","request_verb":"GET","client_ip":"192.0.2.7","#,
        r#""useragent":"curl/8 \"x\"","apiproxy_revision":"v1","response_status_code":200,"developer_email":"team","#,
        r#""developer_app":"billing","client_id":"k1","api_product":"gold","organization":"postern.test","#,
        r#""environment":"inbound","gateway_source":"postern","gateway_flow_id":"request-1","auth_method":"api_key","#,
        r#""decision_code":"allowed","config_version":"v1","operation":"read","request_size":0,"response_size":12}"#,
        "\n"
    );

    #[test]
    fn a_record_has_the_fields_that_analytics_know() {
        let event = AccessEvent {
            request_id: "request-1",
            door: "inbound",
            peer: Some("192.0.2.7:1234".parse().unwrap()),
            method: "GET",
            path: "/orders/7",
            status: 200,
            code: "allowed",
            service: "orders",
            app: "billing",
            developer: "team",
            product: "gold",
            operation: "read",
            registry: "v1",
            credential: ("api_key", "k1"),
            user_agent: "curl/8 \"x\"",
            sent: 12,
            duration: Duration::from_micros(12_345),
            ..AccessEvent::NOTHING
        };
        let mut out = Vec::new();

        write(&mut out, &event, "postern.test");

        assert_eq!(String::from_utf8(out).unwrap(), GOLDEN);
        assert!(serde_json::from_str::<serde_json::Value>(GOLDEN).is_ok());
    }
}
