//! A whole cluster in one thread and virtual time: the real core and the real agent's protocol, on a network, machines,
//! disks and an object store that fail as a seed says. What must hold whatever fails is in [`invariants`], one file each.
//!
//! One seed is one life: minutes to hours of a small cluster, in a millisecond or so. The same seed gives the same life,
//! event for event.

mod client;
mod coordinator;
mod cover;
mod faults;
mod gang;
pub mod history;
pub mod invariants;
mod mail;
mod net;
mod node;
mod store;
mod trace;
mod work;
mod world;

pub use world::{Life, Options, live};
