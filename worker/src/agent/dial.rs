//! How connections are opened; apart from the link, so that its tests can put it into another network.

use tonic::transport::{Channel, Endpoint, Error};

/// Opens a connection to `endpoint`.
///
/// # Errors
/// When nobody answers there, or not in time.
pub async fn dial(endpoint: &Endpoint) -> Result<Channel, Error> {
    endpoint.connect().await
}
