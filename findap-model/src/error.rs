//! What can go wrong with a model.

use std::path::PathBuf;

/// Why a model cannot be read, written or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file is not what it should be.
    #[error("{path}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected.
        reason: String,
    },
    /// A key of `config.json` has an impossible value.
    #[error("config.json: `{key}` {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// The value, and which values are allowed.
        reason: String,
    },
    /// A weight file is damaged or hostile.
    #[error("{path}: {reason}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the tensor's name where there is one.
        reason: String,
    },
    /// A path holds no model in the layout that is read, but something else that is recognised.
    #[error("{path} {reason}")]
    NoModel {
        /// The path.
        path: PathBuf,
        /// What the path holds, and what to do.
        reason: String,
    },
    /// A path would leave the model directory.
    #[error("{index}: `{name}` is not a file name inside the model directory; it was not opened")]
    OutsideDirectory {
        /// The file that names it.
        index: PathBuf,
        /// The name.
        name: String,
    },
    /// A tensor is missing, has another shape, or is one that the model has no place for.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// The name in the file.
        name: String,
        /// What was found and what the configuration needs.
        reason: String,
    },
    /// A selection of trained parameters does not fit the model.
    #[error("trained parameters: {reason}")]
    Trainable {
        /// What is wrong with the selection.
        reason: String,
    },
    /// An adapter cannot be what it is asked to be, or is not the one that a session or the training was built for.
    #[error("adapter: {reason}")]
    Adapter {
        /// What is wrong and what to do.
        reason: String,
    },
    /// A batch has more tokens or positions than the session was built for.
    #[error("{what}: {got}, but the session was built for at most {limit}; raise `{setting}`")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length in tokens.
        got: usize,
        /// The limit in tokens.
        limit: usize,
        /// The setting that must be raised.
        setting: &'static str,
    },
    /// The gradients are not those of the trained parameters.
    #[error("the gradients have {got} numbers, but {want} of the model are trained; make them with `zero_gradients`")]
    Gradients {
        /// Count of numbers in the gradients.
        got: usize,
        /// Count of the model's trained numbers.
        want: usize,
    },
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(findap_tensor::KernelError),
    /// The device failed, has not enough memory, or is not the one that the other operands are on.
    #[error(transparent)]
    Device(findap_tensor::TensorError),
    /// The model directory has no chat template.
    #[error("{directory}: no chat template; add chat_template.jinja")]
    NoChatTemplate {
        /// The model directory.
        directory: PathBuf,
    },
    /// The tokenizer or the chat template failed.
    #[error(transparent)]
    Data(#[from] findap_data::DataError),
}

impl From<findap_tensor::TensorError> for ModelError {
    fn from(error: findap_tensor::TensorError) -> Self {
        match error {
            findap_tensor::TensorError::Kernel(error) => ModelError::Kernel(error),
            other => ModelError::Device(other),
        }
    }
}

impl From<findap_tensor::KernelError> for ModelError {
    fn from(error: findap_tensor::KernelError) -> Self {
        ModelError::Kernel(error)
    }
}
