//! The log-probabilities of a reference model, which are kept on disk because they depend on model and data alone.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use findap_data::{Loader, RowRef};
use findap_model::session::SessionOptions;
use findap_model::{Decoder, Recompute, Session};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::event::{Event, Observer};
use crate::folder::write_json;
use crate::identity::Identity;
use crate::objective::{Reference, References, pair_references};

/// The contents of the file.
#[derive(Serialize, Deserialize)]
struct Cached {
    identity: Identity,
    /// For each pair: store, row, log-probabilities of the chosen and the rejected answer.
    pairs: Vec<(u32, u32, f64, f64)>,
}

/// The part of a stage's identity that decides the references. The order of sources and the seed are in it because they decide
/// which row has which number.
fn causes(identity: &Identity) -> Identity {
    let is_cause = |key: &str| {
        ["model", "model.compute", "run.seed"].contains(&key)
            || ["data.", "share."].iter().any(|start| key.starts_with(start))
            || [".pairs", ".dev", ".context_tokens"].iter().any(|end| key.ends_with(end))
    };
    identity.iter().filter(|(key, _)| is_cause(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The references of a stage of this identity: read from the file at `path` if they are there, else computed by `compute`, which gives
/// `None` when it was stopped.
///
/// # Errors
/// As `compute`; [`TrainError::Io`].
pub(super) fn references(
    path: &Path,
    identity: &Identity,
    compute: impl FnOnce() -> Result<Option<References>, TrainError>,
) -> Result<Option<References>, TrainError> {
    let identity = causes(identity);
    let cached = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
    if let Some(cached) = cached.filter(|cached| cached.identity == identity) {
        let entry = |(store, row, chosen, rejected)| (RowRef { store, row }, Reference { chosen, rejected });
        return Ok(Some(cached.pairs.into_iter().map(entry).collect()));
    }
    let Some(references) = compute()? else { return Ok(None) };
    let pairs = references.iter().map(|(row, pair)| (row.store, row.row, pair.chosen, pair.rejected)).collect();
    write_json(path, &Cached { identity, pairs })?;
    Ok(Some(references))
}

/// Computes the log-probabilities of the pairs of `loader` under the present weights of `model`; `None` when it was stopped.
///
/// # Errors
/// [`TrainError::Model`].
pub(crate) fn reference_logprobs(
    model: &Decoder,
    loader: &Loader,
    stage: &str,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Option<References>, TrainError> {
    let (max_tokens, max_positions) = loader.limits();
    let options = SessionOptions {
        dtype: model.params.dtype(),
        max_tokens,
        max_positions,
        recompute: Recompute::Block,
        gradients: None,
        frozen_blocks: 0,
        lora: model.lora(),
    };
    let mut session = Session::on(&model.params.device(), &model.config, options)?;
    let mut references = References::new();
    let total = loader.num_contexts() as u64;
    for micro in loader.one_pass(usize::MAX) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = &micro.batch;
        let logp = session.forward(model, batch.into())?.score(&batch.targets)?.into_logp()?;
        references.extend(micro.rows.iter().copied().zip(pair_references(batch, logp)));
        let (stage, done) = (stage.to_owned(), references.len() as u64);
        observer.event(Event::Progress { stage, what: "pairs of the reference", done, total });
    }
    Ok(Some(references))
}
