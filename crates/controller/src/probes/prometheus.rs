//! The value of an instant query: one number, by Prometheus' HTTP API.

use http::{
    Request, Uri,
    header::{AUTHORIZATION, HeaderValue},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use tidegate_protocol::domain::PrometheusProbe;

use super::{ProbeError, Secret};
use crate::core::Reading;

/// One number is a few hundred bytes; more is another answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Of an error's text, for people.
const ERROR_CHARS_MAX: usize = 200;

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Sample>),
    /// (time in seconds, value as a text).
    Scalar((f64, String)),
    Matrix(serde::de::IgnoredAny),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Sample {
    value: (f64, String),
}

/// Connections are pooled by the client.
pub struct Prometheus {
    uri: Uri,
    token: Option<HeaderValue>,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Prometheus {
    pub fn new(probe: &PrometheusProbe, token: Option<&Secret>) -> Result<Self, ProbeError> {
        let url = format!(
            "{}/api/v1/query?query={}",
            probe.url.trim_end_matches('/'),
            percent_encoded(&probe.query)
        );
        let uri: Uri = url
            .parse()
            .map_err(|_| ProbeError::Setting("the url is not one".to_owned()))?;
        let token = token.map(|token| HeaderValue::from_str(&format!("Bearer {}", token.expose())));
        let mut token = token
            .transpose()
            .map_err(|_| ProbeError::Setting("the token is not a header's value".to_owned()))?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Self {
            client: client(uri.scheme_str() == Some("https"))?,
            uri,
            token,
        })
    }

    pub async fn look(&mut self) -> Result<Reading, ProbeError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| ProbeError::connection(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| ProbeError::connection(&*error))?.to_bytes();
        let answer: Result<Answer, _> = serde_json::from_slice(&body);
        match answer {
            Ok(answer) => value(answer),
            Err(_) => Err(ProbeError::Answer(format!(
                "status {status} and no answer of the query API"
            ))),
        }
    }
}

fn value(answer: Answer) -> Result<Reading, ProbeError> {
    if answer.status != "success" {
        let error: String = answer.error.chars().take(ERROR_CHARS_MAX).collect();
        return Err(ProbeError::Answer(format!("the query failed: {error}")));
    }
    let text = match answer.data {
        Some(Data::Scalar((_, text))) => text,
        Some(Data::Vector(samples)) => match <[Sample; 1]>::try_from(samples) {
            Ok([sample]) => sample.value.1,
            Err(samples) => {
                let text = format!("the query gives {} values, not one: sum them", samples.len());
                return Err(ProbeError::Answer(text));
            }
        },
        Some(Data::Matrix(_) | Data::String(_)) | None => {
            return Err(ProbeError::Answer("the query gives no number".to_owned()));
        }
    };
    let in_use = text
        .parse()
        .map_err(|_| ProbeError::Answer(format!("{text:?} is no number")))?;
    Ok(Reading {
        in_use,
        ..Reading::default()
    })
}

/// Everything that is not unreserved.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn client(is_tls: bool) -> Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, ProbeError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let builder = HttpsConnectorBuilder::new();
    let ring = rustls::crypto::ring::default_provider();
    let https = if is_tls {
        builder.with_provider_and_native_roots(ring).map_err(|error| {
            ProbeError::Setting(format!("https needs certificates of authorities: {error}"))
        })?
    } else {
        // Reading the system's roots takes a while and fails on machines that have none: not for plain HTTP.
        let config = rustls::ClientConfig::builder_with_provider(ring.into())
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder.with_tls_config(config)
    };
    let connector = https.https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<f64, String> {
        let answer = serde_json::from_str(json).map_err(|error: serde_json::Error| error.to_string())?;
        value(answer)
            .map(|reading| reading.in_use)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_number_and_nothing_else_is_an_answer() {
        let vector = |samples: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{samples}]}}}}"#)
        };
        let sample = r#"{"metric":{"a":"b"},"value":[1435781451.781,"12.5"]}"#;
        assert_eq!(read(&vector(sample)), Ok(12.5));
        assert_eq!(
            read(r#"{"status":"success","data":{"resultType":"scalar","result":[1.5,"3"]}}"#),
            Ok(3.0)
        );
        assert!(
            read(&vector(r#"{"metric":{},"value":[1,"NaN"]}"#)).is_ok_and(f64::is_nan),
            "judged by who asks"
        );
        let two = read(&vector(&format!("{sample},{sample}")));
        assert!(two.is_err_and(|error| error.contains("2 values, not one")));
        assert!(read(&vector("")).is_err_and(|error| error.contains("0 values")));
        let failed = read(r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#);
        assert!(failed.is_err_and(|error| error.contains("parse error")));
        let matrix = read(r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#);
        assert!(matrix.is_err_and(|error| error.contains("no number")));
    }

    #[test]
    fn a_query_is_one_parameter() {
        assert_eq!(
            percent_encoded("sum(a{b=\"c\"}) + 1&x"),
            "sum%28a%7Bb%3D%22c%22%7D%29%20%2B%201%26x"
        );
    }
}
