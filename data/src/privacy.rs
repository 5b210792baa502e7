//! What names a patient does not leave the machine. Names and dates are never read out of a file; ids are, and become hashes when that
//! is asked for.

use morph_spec::dataset::Privacy;

use crate::Meta;

/// Hex digits of a hashed id: 80 bits, so that no two of a billion ids collide.
const DIGITS: usize = 20;

/// Replaces ids by keyed hashes, when the YAML says so.
#[derive(Debug)]
pub(crate) struct Hider(Option<[u8; 32]>);

impl Hider {
    pub(crate) fn new(privacy: &Privacy) -> Self {
        let key = || blake3::derive_key("morph 2026 ids of images and patients", privacy.salt.as_bytes());
        Self(privacy.hash_ids.then(key))
    }

    /// What stands for `text` outside of this machine.
    pub(crate) fn hide(&self, text: &str) -> String {
        match &self.0 {
            None => text.to_owned(),
            Some(key) => blake3::keyed_hash(key, text.as_bytes()).to_hex()[..DIGITS].to_owned(),
        }
    }

    /// The same for everything about a sample that may name somebody; files are named after patients.
    pub(crate) fn meta(&self, meta: Meta) -> Meta {
        if self.0.is_none() {
            return meta;
        }
        Meta { id: self.hide(&meta.id), patient: self.hide(&meta.patient), source: self.hide(&meta.source), ..meta }
    }
}
