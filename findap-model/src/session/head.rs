//! The end of a forward pass, logits or log-probabilities of its hidden states, and the backward pass from there.

use findap_tensor::ops::cross_entropy::{self, Head, Scores};
use findap_tensor::ops::sample::Logits;
use findap_tensor::ops::{embedding, linear, rms_norm};
use findap_tensor::{Arena, Indices, StepStats, Write};

use super::{Pass, Session};
use crate::error::ModelError;
use crate::layout::Layout;
use crate::linear::{Gradients, Weights};

/// A pass whose head has computed the log-probabilities of the targets.
#[derive(Debug)]
pub struct Scored<'a> {
    pass: Pass<'a>,
    targets: &'a [u32],
}

/// The log-probabilities of a pass's targets, on the device that computed them.
#[derive(Debug)]
pub struct LogProbs<'a> {
    scores: &'a mut Scores,
    num_tokens: usize,
}

/// The source of the token weights, dLoss / dlogp of each token.
#[derive(Clone, Copy)]
enum TokenWeights<'a> {
    /// Weights `[n]` from the caller.
    Given(&'a [f64]),
    /// Weights that an objective has left in the scores.
    InScores,
}

impl<'a> Pass<'a> {
    /// Computes the log-probabilities of `targets` `[n]`, 0 where the target is `IGNORE`, without waiting for a device.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] for a target past the vocabulary or a wrong number of targets; [`ModelError::Device`].
    pub fn score(self, targets: &'a [u32]) -> Result<Scored<'a>, ModelError> {
        let Pass { session, model, tokens } = self;
        let Session { packed, buffers, head_scratch, scores, plan, .. } = &mut *session;
        let head = Head {
            hidden: buffers.hidden.shared(tokens.ids.len()),
            weight: Weights { params: &model.params, packed: packed.as_ref(), adapter: None }
                .matrix(model.layout.head.weight),
            targets,
            chunk_rows: plan.head.chunk_rows,
            scratch: head_scratch.rows_mut(1),
        };
        cross_entropy::forward(scores, head)?;
        Ok(Scored { pass: Pass { session, model, tokens }, targets })
    }

    /// Adds a loss's gradients to `gradients`, which are from [`crate::Decoder::zero_gradients`]. dLoss / dlogp = `token_weights` `[n]`
    /// is known before the log-probabilities of `targets` `[n]`, so that the head computes its logits once.
    ///
    /// # Errors
    /// As [`Pass::score`]; [`ModelError::Gradients`] for gradients of other parameters.
    ///
    /// # Panics
    /// If the session was built without a backward pass.
    pub fn backward(
        mut self,
        targets: &[u32],
        token_weights: &[f64],
        gradients: &mut Arena,
    ) -> Result<LogProbs<'a>, ModelError> {
        self.head_backward(targets, TokenWeights::Given(token_weights), gradients, true)?;
        self.blocks_backward(gradients)?;
        Ok(LogProbs { num_tokens: self.tokens.ids.len(), scores: &mut self.session.scores })
    }

    /// Computes the logits of chosen rows of the hidden states.
    pub(crate) fn logits(&mut self, rows: &Indices, out: &mut Logits) -> Result<(), ModelError> {
        let Session { packed, buffers, .. } = &mut *self.session;
        let (n, layout) = (rows.values().len(), &self.model.layout);
        let weights = Weights { params: &self.model.params, packed: packed.as_ref(), adapter: None };
        embedding::gather(buffers.sublayer_out.shared_mut(n), buffers.hidden.shared(self.tokens.ids.len()), rows)?;
        Ok(linear::forward(out.rows_mut(n), buffers.sublayer_out.shared(n), weights.matrix(layout.head.weight))?)
    }

    /// Computes the gradient of the last residual, and adds those of the head and of the last norm.
    fn head_backward(
        &mut self,
        targets: &[u32],
        token_weights: TokenWeights<'_>,
        gradients: &mut Arena,
        is_fused: bool,
    ) -> Result<(), ModelError> {
        let mut gradients = self.model.gradients(gradients)?;
        let Session { packed, buffers: b, head_scratch, scores, plan, .. } = &mut *self.session;
        assert!(b.d_residual.row.slots > 0, "invariant: the session was built for a backward pass");
        let n = self.tokens.ids.len();
        let weights = Weights { params: &self.model.params, packed: packed.as_ref(), adapter: None };
        let Layout { head, final_norm, .. } = &*self.model.layout;
        let arguments = Head {
            hidden: b.hidden.shared(n),
            weight: weights.matrix(head.weight),
            targets,
            chunk_rows: plan.head.chunk_rows,
            scratch: head_scratch.rows_mut(1),
        };
        let results = cross_entropy::Gradients {
            token_weights: match token_weights {
                TokenWeights::Given(weights) => Some(weights),
                TokenWeights::InScores => None,
            },
            dhidden: b.d_normed.shared_mut(n),
            dweight: gradients.get(head.weight),
        };
        match is_fused {
            true => cross_entropy::forward_backward(scores, arguments, results)?,
            false => cross_entropy::backward(scores, arguments, results)?,
        }
        let saved = rms_norm::Saved {
            x: b.final_residual.shared(n),
            rstd: b.final_rstd.shared(n),
            weight: weights.stored(*final_norm),
        };
        let (dx, dweight) = (b.d_residual.shared_mut(n), gradients.get(*final_norm));
        Ok(rms_norm::backward(dx, Write::Overwrite, dweight, b.d_normed.shared(n), saved)?)
    }

    /// Runs the backward pass of the blocks from the last to the first with a trained parameter in or before it, and of the embedding.
    fn blocks_backward(&mut self, gradients: &mut Arena) -> Result<(), ModelError> {
        let mut gradients: Gradients<'_> = self.model.gradients(gradients)?;
        let documents = &self.session.documents(self.tokens);
        let (first, num_layers) = (self.session.options.frozen_blocks, self.model.layout.blocks.len());
        for l in (first..num_layers).rev() {
            let (block, buffers) = self.session.block(self.model, l, documents);
            block.restore(buffers)?;
            block.backward(buffers, &mut gradients)?;
        }
        match gradients.get(self.model.layout.embedding) {
            Some(dtable) => {
                let d_residual = self.session.buffers.d_residual.shared(documents.ids.len());
                Ok(embedding::backward(dtable, d_residual, documents)?)
            }
            None => Ok(()),
        }
    }
}

impl<'a> Scored<'a> {
    /// The log-probabilities, which stay with the pass.
    pub fn log_probs(&mut self) -> LogProbs<'_> {
        LogProbs { num_tokens: self.pass.tokens.ids.len(), scores: &mut self.pass.session.scores }
    }

    /// Reads the log-probabilities `[n]`, natural logarithm, and ends a pass that needs no gradients. Waits for a device.
    ///
    /// # Errors
    /// As [`LogProbs::read`].
    pub fn into_logp(self) -> Result<&'a [f64], ModelError> {
        LogProbs { num_tokens: self.pass.tokens.ids.len(), scores: &mut self.pass.session.scores }.read()
    }

    /// The scores of the head, for an objective that leaves its token weights there.
    pub fn scores_mut(&mut self) -> &mut Scores {
        &mut self.pass.session.scores
    }

    /// Adds to `gradients` those of a loss with dLoss / dlogp = `token_weights` `[n]`; `None` takes the weights that an objective has
    /// left in [`Scored::scores_mut`].
    ///
    /// # Errors
    /// [`ModelError::Kernel`] if lengths disagree; [`ModelError::Gradients`] for gradients of other parameters; [`ModelError::Device`].
    ///
    /// # Panics
    /// If the session was built without a backward pass.
    pub fn backward(mut self, token_weights: Option<&[f64]>, gradients: &mut Arena) -> Result<(), ModelError> {
        let token_weights = token_weights.map_or(TokenWeights::InScores, TokenWeights::Given);
        self.pass.head_backward(self.targets, token_weights, gradients, false)?;
        self.pass.blocks_backward(gradients)
    }
}

impl<'a> LogProbs<'a> {
    /// Reads the log-probabilities `[n]`, 0 where the target was `IGNORE`. Waits for a device.
    ///
    /// # Errors
    /// [`ModelError::Device`], also for an earlier op that failed on the device.
    pub fn read(self) -> Result<&'a [f64], ModelError> {
        Ok(self.scores.read(self.num_tokens)?)
    }

    /// Adds minus the sum of the log-probabilities, divided by `divisor`, to the loss of a step. Does not wait for a device.
    ///
    /// # Errors
    /// [`ModelError::Device`], also for statistics that lie elsewhere.
    pub fn add_loss(&self, stats: &mut StepStats, divisor: f64) -> Result<(), ModelError> {
        Ok(self.scores.add_loss(stats, self.num_tokens, divisor)?)
    }
}
