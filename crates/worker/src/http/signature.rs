//! Standard Webhooks signatures: an app can tell that a delivery is from here, and not a replay.
//!
//! `webhook-signature` is `v1,` and the base64 of an HMAC-SHA256 over `id.timestamp.body`, one for each secret, with a
//! blank between them: to change a secret, add the new one, teach the app, take the old one away.

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use tidegate_chassis::config::Secret;

use super::HttpError;

const PREFIX: &str = "whsec_";
/// Shorter ones can be guessed; longer ones are hashed down anyway.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The keys that sign. Prints nothing of them.
#[derive(Clone, Default)]
pub(super) struct Signer {
    keys: Vec<hmac::Key>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({} keys)", self.keys.len())
    }
}

impl Signer {
    /// A text may hold several secrets with blanks or line ends between them, as a file has them.
    pub(super) fn new(secrets: &[Secret]) -> Result<Self, HttpError> {
        let texts = secrets
            .iter()
            .flat_map(|secret| secret.expose().split_whitespace());
        let keys = texts.map(key).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The value of `webhook-signature`; `None`: there is no secret.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<String> {
        let signature = |key: &hmac::Key| {
            let mut context = hmac::Context::with_key(key);
            for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                context.update(part);
            }
            format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
        };
        let all: Vec<String> = self.keys.iter().map(signature).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }
}

/// The error must not quote the text.
fn key(text: &str) -> Result<hmac::Key, HttpError> {
    let encoded = text.strip_prefix(PREFIX).ok_or(HttpError::InvalidSecret)?;
    let bytes = BASE64_STANDARD
        .decode(encoded)
        .map_err(|_| HttpError::InvalidSecret)?;
    if !KEY_BYTES.contains(&bytes.len()) {
        return Err(HttpError::InvalidSecret);
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The vector of the Standard Webhooks reference implementations.
    #[test]
    fn signs_as_the_reference_does() {
        let signer = Signer::new(&[SECRET.into()]).expect("valid");
        let signed = signer.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            b"{\"test\": 2432232314}",
        );
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed.as_deref(), Some(expected));
        assert_eq!(Signer::default().sign("a", "1", b""), None);
    }

    #[test]
    fn every_secret_signs_wherever_it_stands() {
        let other = format!("whsec_{}", BASE64_STANDARD.encode([7; 32]));
        let listed = Signer::new(&[SECRET.into(), other.as_str().into()]).expect("valid");
        let filed = Signer::new(&[format!("{SECRET}\n{other}\n").into()]).expect("valid");
        let signed = listed.sign("a", "1", b"x").expect("it signs");
        assert_eq!(signed.split(' ').count(), 2);
        assert_eq!(filed.sign("a", "1", b"x"), Some(signed));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_never_quoted() {
        for text in ["hunter2", "whsec_!!!!", "whsec_c2hvcnQ="] {
            let error = Signer::new(&[text.into()]).expect_err(text).to_string();
            assert!(
                error.contains("openssl rand -base64 32") && !error.contains(text),
                "{error}"
            );
        }
        let signer = Signer::new(&[SECRET.into()]).expect("valid");
        assert_eq!(format!("{signer:?}"), "Signer(1 keys)");
    }
}
