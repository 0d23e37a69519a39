//! Certificates of the connection to a collector, which the exporters do not read from `OTEL_*` themselves.

use anyhow::Context as _;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};

use super::of_signal;

/// `None`: nothing is set, and an https endpoint is checked by the system's roots.
///
/// # Errors
/// A file that cannot be read, or half a key pair.
pub(super) fn from_env(
    signal: &str,
    env: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<ClientTlsConfig>> {
    let file = |name: &str| -> anyhow::Result<Option<Vec<u8>>> {
        let Some((name, path)) = of_signal(signal, name, &env) else {
            return Ok(None);
        };
        let bytes = std::fs::read(&path).with_context(|| format!("{name}={path}"))?;
        Ok(Some(bytes))
    };
    let (root, key, certificate) = (
        file("CERTIFICATE")?,
        file("CLIENT_KEY")?,
        file("CLIENT_CERTIFICATE")?,
    );
    let mut tls = ClientTlsConfig::new().with_enabled_roots();
    let is_set = root.is_some() || key.is_some();
    if let Some(root) = root {
        tls = tls.ca_certificate(Certificate::from_pem(root));
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => tls = tls.identity(Identity::from_pem(certificate, key)),
        (None, None) => {}
        _ => anyhow::bail!(
            "OTEL_EXPORTER_OTLP_CLIENT_KEY and OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: set both or none"
        ),
    }
    Ok(is_set.then_some(tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_half_a_pair_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.pem").display().to_string();
        std::fs::write(&path, "pem").expect("written");
        let with = |names: &[&str], path: &str| {
            let (names, path) = (
                names.iter().map(ToString::to_string).collect::<Vec<_>>(),
                path.to_owned(),
            );
            from_env("TRACES", move |name| {
                names.iter().any(|set| set == name).then(|| path.clone())
            })
        };
        assert!(with(&[], &path).expect("nothing is set").is_none());
        assert!(
            with(&["OTEL_EXPORTER_OTLP_CERTIFICATE"], &path)
                .expect("read")
                .is_some()
        );
        let pair = [
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        ];
        assert!(with(&pair, &path).expect("read").is_some());
        assert!(
            with(&pair[..1], &path)
                .expect_err("half")
                .to_string()
                .contains("set both")
        );
        let gone = with(&["OTEL_EXPORTER_OTLP_CERTIFICATE"], "no-such-file").expect_err("not there");
        assert_eq!(gone.to_string(), "OTEL_EXPORTER_OTLP_CERTIFICATE=no-such-file");
    }
}
