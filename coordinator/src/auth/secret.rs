//! Bearer tokens as text: `morph_<id>_<secret>`, where the id (64 bits, hex) is public and the secret has 256 random bits.
//! A password is guessed, a random key is not: one round of BLAKE3 keeps it as well as a slow hash would.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// A whole token. It is shown only on purpose ([`Secret::expose`]).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A token that somebody has.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent, or shown to the one who asked for it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What is kept of a secret.
#[derive(Debug, Clone, Copy)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Whether `secret` is the one; takes as long for any wrong one.
    pub fn matches(&self, secret: &[u8; 32]) -> bool {
        self.0.ct_eq(blake3::hash(secret).as_bytes()).into()
    }
}

/// A new token: its id, its text, its hash.
///
/// # Errors
/// When the kernel has no randomness to give.
pub fn fresh() -> Result<(String, Secret, Hash), getrandom::Error> {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut secret)?;
    let id = hex::encode(id);
    let text = format!("morph_{id}_{}", hex::encode(secret));
    Ok((id, Secret(text), Hash(*blake3::hash(&secret).as_bytes())))
}

/// The id and the secret in `text`, if it has the form of a token.
pub fn parse(text: &str) -> Option<(&str, [u8; 32])> {
    let (id, secret) = text.strip_prefix("morph_")?.split_once('_')?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(secret, &mut bytes).ok()?;
    (id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some((id, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_no_other_matches() {
        let (id, text, hash) = fresh().unwrap();
        let (found, secret) = parse(text.expose()).unwrap();
        assert_eq!(found, id);
        assert!(hash.matches(&secret));
        for bit in [0, 7, 255] {
            let mut other = secret;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!hash.matches(&other));
        }
        assert_ne!(fresh().unwrap().1, text);
    }

    #[test]
    fn what_is_no_token_is_not_taken_for_one() {
        let (_, text, _) = fresh().unwrap();
        let text = text.expose();
        for bad in ["", "morph_", "morph__", &text[1..], &text[..text.len() - 1], &format!("{text}0"), "morph_0_ff"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn debugging_shows_no_secret() {
        let (_, text, _) = fresh().unwrap();
        assert!(!format!("{text:?}").contains(&text.expose()[20..]));
    }
}
