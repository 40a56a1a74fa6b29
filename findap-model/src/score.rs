//! The likelihood of continuations. Each context is read once, together with its first continuation; the others then take turns
//! after the cached context.

use findap_tensor::Indices;
use findap_tensor::ops::sample::Logits;

use crate::cache::{Cache, NextTokens};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::format::statistics_dtype;
use crate::session::{Pass, Recompute, Session, SessionOptions, Tokens};

/// The likelihood of a continuation after its context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Sum of the log-probabilities, natural logarithm.
    pub logp: f64,
    /// Whether each token of the continuation is the most probable one at its place.
    pub is_greedy: bool,
}

/// The buffers of scoring.
#[derive(Debug)]
pub(crate) struct Scorer {
    session: Session,
    /// Cache of the contexts of a pass that have several continuations, and the length of its slots.
    cache: Option<(Cache, usize)>,
    predictions: Predictions,
}

/// The tokens whose likelihood a pass is asked for, and the memory to compute it.
#[derive(Debug)]
struct Predictions {
    logits: Logits,
    /// Rows of hidden states that predict the tokens asked for.
    rows: Indices,
}

/// A token whose likelihood is asked for.
struct Wanted {
    /// The row of hidden states that predicts it.
    row: usize,
    token: u32,
    /// The pair whose score it is a part of.
    pair: usize,
}

impl Scorer {
    /// Makes buffers for passes of at most `max_tokens` tokens, of which `logit_rows` predictions are computed at a time.
    pub(crate) fn new(model: &Decoder, max_tokens: usize, logit_rows: usize) -> Result<Scorer, ModelError> {
        let (config, device, dtype) = (&model.config, &model.params.device(), model.activation_dtype());
        let options = SessionOptions {
            dtype,
            max_tokens,
            max_positions: config.max_positions,
            recompute: Recompute::None,
            gradients: None,
            frozen_blocks: 0,
            lora: model.lora(),
        };
        let logits = Logits::new(device, statistics_dtype(dtype), logit_rows, config.vocab_size)?;
        Ok(Scorer {
            session: Session::on(device, config, options)?,
            cache: None,
            predictions: Predictions { logits, rows: Indices::new(device, logit_rows)? },
        })
    }

    /// Tokens of the largest pass.
    pub(crate) fn max_tokens(&self) -> usize {
        self.session.options().max_tokens
    }

    /// The likelihood of each continuation after its context; see [`crate::TextModel::score`].
    pub(crate) fn score(
        &mut self,
        model: &Decoder,
        pairs: &[(Vec<u32>, Vec<u32>)],
    ) -> Result<Vec<Likelihood>, ModelError> {
        let mut scores = vec![Likelihood { logp: 0.0, is_greedy: true }; pairs.len()];
        let (groups, max_tokens) = (groups(pairs), self.max_tokens());
        // All cached contexts lie in slots of one length.
        let has_turns = groups.iter().any(|group| group.num_turns() > 1);
        let slot_len = longest_read(pairs).next_multiple_of(64).clamp(1, max_tokens);
        let max_groups = if has_turns { max_tokens / slot_len } else { usize::MAX };
        let mut rest = &groups[..];
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take(max_groups).take_while(|group| {
                tokens += group.num_read();
                tokens <= max_tokens
            });
            let (pass, later) = rest.split_at(fits.count());
            self.score_pass(model, pass, slot_len, &mut scores)?;
            rest = later;
        }
        Ok(scores)
    }

    /// Scores the continuations of some contexts that fit the session together.
    fn score_pass(
        &mut self,
        model: &Decoder,
        groups: &[Group<'_>],
        slot_len: usize,
        scores: &mut [Likelihood],
    ) -> Result<(), ModelError> {
        let (mut ids, mut positions, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
        let mut wanted = Vec::new();
        for group in groups {
            let (context, continuation) = &group.pairs[0];
            let (start, read) = (ids.len(), group.num_read());
            ids.extend(context.iter().chain(continuation).take(read));
            positions.extend(0..read as u32);
            if read > 0 {
                cu_seqlens.push(ids.len() as u32);
            }
            let first = start + context.len() - usize::from(!context.is_empty());
            let of_first = continuation.iter().enumerate();
            wanted.extend(of_first.map(|(at, &token)| Wanted { row: first + at, token, pair: group.first_pair }));
            // the first token after the context is predicted by the context's last token
            let others = group.pairs.iter().enumerate().skip(1);
            let first_of = |(at, (_, other)): (usize, &(Vec<u32>, Vec<u32>))| {
                Some(Wanted { row: first, token: *other.first()?, pair: group.first_pair + at })
            };
            wanted.extend(others.filter_map(first_of));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let Scorer { session, cache, predictions } = self;
        let tokens = Tokens { ids: &ids, positions: &positions, cu_seqlens: &cu_seqlens };
        let num_turns = groups.iter().map(Group::num_turns).max().unwrap_or(1);
        if num_turns == 1 {
            return predictions.add(session.forward(model, tokens)?, &wanted, scores);
        }
        let max_tokens = session.options().max_tokens;
        if cache.as_ref().is_none_or(|(_, built_for)| *built_for != slot_len) {
            *cache = None; // its memory first
            *cache = Some((Cache::new(model, max_tokens / slot_len, slot_len, max_tokens)?, slot_len));
        }
        let (cache, _) = cache.as_mut().expect("invariant: just built");
        let slots = (0..groups.len()).filter(|&slot| groups[slot].num_read() > 0);
        predictions.add(cache.prefill(session, model, tokens, slots)?, &wanted, scores)?;
        for turn in 1..num_turns {
            let (mut next, mut wanted) = (NextTokens::new(), Vec::new());
            for (slot, group) in groups.iter().enumerate() {
                let Some((context, continuation)) = group.pairs.get(turn) else { continue };
                for (at, pair) in continuation.windows(2).enumerate() {
                    wanted.push(Wanted { row: next.len(), token: pair[1], pair: group.first_pair + turn });
                    next.push(pair[0], slot, context.len() + at);
                }
            }
            if !wanted.is_empty() {
                predictions.add(cache.extend(session, model, &next)?, &wanted, scores)?;
            }
        }
        Ok(())
    }
}

impl Predictions {
    /// Adds the log-probabilities of tokens that a pass predicts to the scores of their pairs.
    fn add(&mut self, mut pass: Pass<'_>, wanted: &[Wanted], scores: &mut [Likelihood]) -> Result<(), ModelError> {
        let Predictions { logits, rows } = self;
        for chunk in wanted.chunks(logits.max_rows()) {
            rows.set(chunk.iter().map(|wanted| wanted.row as u32))?;
            pass.logits(rows, logits)?;
            let targets: Vec<u32> = chunk.iter().map(|wanted| wanted.token).collect();
            let scored = logits.score_tokens(&targets)?;
            for (wanted, (best, logp)) in chunk.iter().zip(scored.tokens.iter().zip(scored.logp)) {
                let score = &mut scores[wanted.pair];
                score.logp += logp;
                score.is_greedy &= *best == wanted.token;
            }
        }
        Ok(())
    }
}

/// Count of the tokens read of the longest pair.
pub(crate) fn longest_read(pairs: &[(Vec<u32>, Vec<u32>)]) -> usize {
    pairs.iter().map(|(context, continuation)| num_read(context, continuation)).max().unwrap_or(0)
}

/// Neighbouring pairs that share a context.
struct Group<'a> {
    pairs: &'a [(Vec<u32>, Vec<u32>)],
    /// Index of the first of them among all pairs.
    first_pair: usize,
}

impl Group<'_> {
    /// Passes until every continuation was read. The first is read with the context; those of one token need no reading.
    fn num_turns(&self) -> usize {
        1 + self.pairs.iter().skip(1).rposition(|(_, continuation)| continuation.len() > 1).map_or(0, |last| last + 1)
    }

    /// Tokens of the first pass: those read of the first pair, but at least the whole context if other pairs need it.
    fn num_read(&self) -> usize {
        let (context, continuation) = &self.pairs[0];
        let has_others = self.pairs[1..].iter().any(|(_, other)| !other.is_empty());
        num_read(context, continuation).max(if has_others { context.len() } else { 0 })
    }
}

fn groups(pairs: &[(Vec<u32>, Vec<u32>)]) -> Vec<Group<'_>> {
    let mut first_pair = 0;
    let of_one_context = pairs.chunk_by(|(a, _), (b, _)| !a.is_empty() && a == b);
    of_one_context
        .map(|pairs| {
            first_pair += pairs.len();
            Group { pairs, first_pair: first_pair - pairs.len() }
        })
        .collect()
}

/// Count of the tokens read to score a continuation: all but the last.
fn num_read(context: &[u32], continuation: &[u32]) -> usize {
    (context.len() + continuation.len()).saturating_sub(1)
}
