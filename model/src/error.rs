//! What can go wrong with a network.

/// A failed build, load or step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Weights of a network by which images are compared are missing or of another shape, or images do not fit it.
    #[error("image similarity: {0}")]
    Similarity(String),
    /// A state dict does not fit the network.
    #[error(
        "the state dict does not fit the network: missing {missing:?}, unexpected {unexpected:?}, of another shape {misshapen:?}"
    )]
    StateDict {
        /// Names that the network has and the state dict lacks.
        missing: Vec<String>,
        /// Names that the network lacks.
        unexpected: Vec<String>,
        /// Names whose shapes differ, with both.
        misshapen: Vec<String>,
    },
    /// An optimizer's state from elsewhere does not fit.
    #[error("the optimizer's state: {0}")]
    Optimizer(String),
    /// A method has no graph.
    #[error("this method has no ONNX graph (Method::graph); TorchScript can be had of every method")]
    Graph,
    /// VGG-19's weights are missing or wrong.
    #[error("perceptual loss: {0}")]
    Perceptual(String),
    /// A batch of one image has no statistics.
    #[error(
        "batch norm: a layer sees one value per channel in the whole batch, which has no statistics; use a larger batch, drop_last, or norm_mode: frozen"
    )]
    NoStatistics,
    /// A collective failed.
    #[error(transparent)]
    Collective(Box<dyn std::error::Error + Send + Sync>),
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(String),
    /// A recorded case cannot be replayed.
    #[error("{0}")]
    Golden(String),
}

impl From<tch::TchError> for Error {
    fn from(e: tch::TchError) -> Self {
        // What it says, without the heading and the trace below it.
        let text = e.to_string();
        let text = text.strip_prefix("Internal torch error:").unwrap_or(&text);
        Self::Torch(text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default().to_owned())
    }
}
