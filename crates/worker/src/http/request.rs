//! The headers of a delivery: CloudEvents 1.0 in binary mode, Standard Webhooks, trace context, where to call when it is
//! done later, and the job's own.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, USER_AGENT},
};

use super::signature::Signer;
use crate::{JobContext, delivery::rfc3339};

/// Ours by meaning, or hop by hop: a job's header of such a name could lie about the job or break the message apart.
const RESERVED: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "traceparent",
    "tracestate",
    "user-agent",
];
const RESERVED_PREFIXES: [&str; 4] = ["ce-", "webhook-", "proxy-", "tidegate-"];

/// What a delivery says beside what its job says.
pub(super) struct Extra<'a> {
    pub(super) trace: Option<(String, Option<String>)>,
    pub(super) callback: Option<String>,
    pub(super) signer: &'a Signer,
    pub(super) wall_s: u64,
}

pub(super) fn headers(context: &JobContext, body: &[u8], extra: Extra<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in context.headers() {
        if is_reserved(name) {
            continue;
        }
        // The router has checked them; what is no HTTP all the same is left out.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let id = context.job_id().to_string();
    set("ce-specversion", "1.0".to_owned());
    set("ce-id", id.clone());
    set("ce-type", context.queue().to_string());
    set("ce-source", "/tidegate".to_owned());
    set("ce-time", rfc3339(context.created_ms()));
    set("ce-tidegateattempt", context.attempt().to_string());
    set("ce-tidegatefence", context.fence().to_string());
    if let Some(deadline_ms) = context.deadline_ms() {
        set("ce-tidegatedeadline", rfc3339(deadline_ms));
    }
    let timestamp = extra.wall_s.to_string();
    if let Some(signature) = extra.signer.sign(&id, &timestamp, body) {
        set("webhook-signature", signature);
    }
    set("webhook-id", id);
    set("webhook-timestamp", timestamp);
    if let Some(url) = extra.callback {
        set("tidegate-callback", url);
    }
    if let Some((parent, state)) = extra.trace {
        set("traceparent", parent);
        if let Some(state) = state {
            set("tracestate", state);
        }
    }
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"))),
    );
    headers
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::job::Facts;

    fn context(headers: &[(&str, &str)]) -> JobContext {
        let headers: BTreeMap<String, String> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let facts = Facts {
            job_id: "email:0:0190163d8694739b8e1cdbf4a7ee1b8e".parse().expect("valid"),
            fence: 1_700_000_000_001,
            attempt: 2,
            max_attempts: 3,
            headers,
            created_ms: 1_700_000_000_000,
            deadline_ms: 1_700_000_060_000,
            stops_at: tidegate_chassis::clock::now(),
            traceparent: None,
            tracestate: None,
        };
        JobContext::new(facts, CancellationToken::new())
    }

    #[test]
    fn a_delivery_is_a_cloud_event_and_a_webhook() {
        let trace = Some(("00-parent".to_owned(), Some("a=b".to_owned())));
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let extra = Extra {
            trace,
            callback: Some("http://worker:1/x".to_owned()),
            signer: &Signer::new(&[secret.into()]).expect("valid"),
            wall_s: 1_700_000_001,
        };
        let headers = headers(&context(&[]), b"{}", extra);
        assert!(
            headers["webhook-signature"]
                .to_str()
                .expect("a text")
                .starts_with("v1,")
        );
        for (name, value) in [
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "email:0:0190163d8694739b8e1cdbf4a7ee1b8e"),
            ("ce-type", "email"),
            ("ce-source", "/tidegate"),
            ("ce-time", "2023-11-14T22:13:20.000Z"),
            ("ce-tidegateattempt", "2"),
            ("ce-tidegatefence", "1700000000001"),
            ("ce-tidegatedeadline", "2023-11-14T22:14:20.000Z"),
            ("webhook-id", "email:0:0190163d8694739b8e1cdbf4a7ee1b8e"),
            ("webhook-timestamp", "1700000001"),
            ("tidegate-callback", "http://worker:1/x"),
            ("traceparent", "00-parent"),
            ("tracestate", "a=b"),
        ] {
            assert_eq!(
                headers.get(name).map(HeaderValue::as_bytes),
                Some(value.as_bytes()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_jobs_headers_are_passed_on_but_never_instead_of_ours() {
        let headers = headers(
            &context(&[
                ("content-type", "text/csv"),
                ("x-tenant", "blue"),
                ("authorization", "Bearer x"),
                ("host", "evil"),
                ("content-length", "0"),
                ("transfer-encoding", "chunked"),
                ("connection", "close"),
                ("ce-id", "lie"),
                ("ce-other", "lie"),
                ("webhook-id", "lie"),
                ("tidegate-callback", "lie"),
                ("traceparent", "lie"),
                ("x-bad", "a\r\nb: c"),
            ]),
            b"",
            Extra {
                trace: None,
                callback: None,
                signer: &Signer::default(),
                wall_s: 0,
            },
        );
        assert_eq!(headers["content-type"], "text/csv");
        assert_eq!(headers["x-tenant"], "blue");
        assert_eq!(headers["authorization"], "Bearer x");
        assert!(
            headers.values().all(|value| value != "lie" && value != "evil"),
            "{headers:?}"
        );
        for name in [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "traceparent",
            "x-bad",
            "ce-other",
            "webhook-signature",
            "tidegate-callback",
        ] {
            assert!(!headers.contains_key(name), "{name}");
        }
    }
}
