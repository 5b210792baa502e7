//! What a life came by: else nobody knows what the simulator never reaches.

use std::collections::BTreeMap;

/// How often what happened; the first word says what it is: `event`, `refusal`, `fault`, or `stop` with the moment in which an
/// attempt was told to.
pub type Seen = BTreeMap<String, u64>;

/// Once more.
pub fn note(seen: &mut Seen, what: String) {
    *seen.entry(what).or_default() += 1;
}
