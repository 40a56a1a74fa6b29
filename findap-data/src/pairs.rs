//! Preference pairs in batches: prompt and both answers, packed as documents.

use std::path::Path;

use crate::batch::Batch;
use crate::error::DataError;
use crate::loader::LoaderState;
use crate::readers::{self, Kind, ReadOptions};
use crate::shuffle::permutation;
use crate::tokenise::{PreferenceRow, Tokeniser};

/// The pairs of a file, as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairSet {
    /// The pairs, in the order of the file.
    pub pairs: Vec<PreferenceRow>,
    /// Records left out because a document would exceed the context, or an answer is empty.
    pub dropped: u64,
}

impl PairSet {
    /// Reads and tokenises a preference file.
    ///
    /// # Errors
    /// Those of the reader and the tokeniser; [`DataError::NoLossTokens`] if no pair is left.
    pub fn read(path: &Path, options: &ReadOptions, tokeniser: &Tokeniser<'_>) -> Result<PairSet, DataError> {
        let options = ReadOptions { kind: Some(Kind::Preference), ..options.clone() };
        let mut set = PairSet { pairs: Vec::new(), dropped: 0 };
        for item in readers::read(path, &options)? {
            let (location, record) = item?;
            match tokeniser.preference(&record).map_err(|error| error.at(path, location))? {
                Some(pair) => set.pairs.push(pair),
                None => set.dropped += 1,
            }
        }
        if set.pairs.is_empty() {
            return Err(DataError::NoLossTokens { dataset: path.display().to_string(), rows: set.dropped as usize });
        }
        Ok(set)
    }
}

/// Pairs as one flat batch: document `2i` is prompt + chosen of the i-th pair, document `2i + 1` prompt + rejected.
///
/// Targets are set on the answers only.
#[derive(Debug, Clone, PartialEq)]
pub struct PairBatch {
    /// The documents.
    pub batch: Batch,
    /// Index of each pair in its [`PairSet`].
    pub pairs: Vec<u32>,
}

impl PairBatch {
    /// A batch of the pairs with the given indices.
    pub fn new(set: &PairSet, indices: &[u32]) -> PairBatch {
        let mut batch = Batch::new();
        for &index in indices {
            let pair = &set.pairs[index as usize];
            for answer in [&pair.chosen, &pair.rejected] {
                let ids = [pair.prompt.as_slice(), answer].concat();
                let mask: Vec<bool> = (0..ids.len()).map(|token| token >= pair.prompt.len()).collect();
                batch.push_document(&ids, &mask);
            }
        }
        PairBatch { batch, pairs: indices.to_vec() }
    }

    /// Positions whose targets are the chosen and the rejected answer of the i-th pair of this batch.
    pub fn spans(&self, index: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let span = |document: usize| {
            let range = self.batch.document(document);
            let start = range.clone().find(|&at| self.batch.targets[at] != crate::IGNORE).unwrap_or(range.end);
            start..range.end - 1
        };
        (span(2 * index), span(2 * index + 1))
    }
}

/// How pairs are put into steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoaderOptions {
    /// At most this many tokens (both documents) per optimizer step, or one pair.
    pub batch_tokens: usize,
    /// At most this many tokens per forward and backward pass, or one pair.
    pub micro_batch_tokens: usize,
    /// Decides the order of pairs.
    pub seed: u64,
    /// Whether pairs are shuffled in each epoch.
    pub is_shuffled: bool,
    /// Whole passes over the pairs.
    pub epochs: u64,
}

/// Yields optimizer steps of pairs. A step never spans two epochs.
#[derive(Debug)]
pub struct PairLoader<'a> {
    set: &'a PairSet,
    options: PairLoaderOptions,
    epoch: u64,
    /// Pairs taken in this epoch.
    position: usize,
    order: Vec<u32>,
}

impl<'a> PairLoader<'a> {
    /// Starts at the first step.
    pub fn new(set: &'a PairSet, options: PairLoaderOptions) -> PairLoader<'a> {
        let mut loader = PairLoader { set, options, epoch: 0, position: 0, order: Vec::new() };
        loader.order = loader.order_of(0);
        loader
    }

    /// Optimizer steps of all epochs.
    pub fn total_steps(&self) -> u64 {
        (0..self.options.epochs)
            .map(|epoch| {
                let order = self.order_of(epoch);
                let (mut position, mut steps) = (0, 0);
                while position < order.len() {
                    position = self.end_of_run(&order, position, order.len(), self.options.batch_tokens);
                    steps += 1;
                }
                steps
            })
            .sum()
    }

    /// The micro-batches of the next optimizer step, or `None` when all epochs are done.
    pub fn next_step(&mut self) -> Option<Vec<PairBatch>> {
        if self.position >= self.order.len() {
            self.epoch += 1;
            self.position = 0;
            if self.epoch < self.options.epochs {
                self.order = self.order_of(self.epoch);
            }
        }
        if self.epoch >= self.options.epochs || self.order.is_empty() {
            return None;
        }
        let end = self.end_of_run(&self.order, self.position, self.order.len(), self.options.batch_tokens);
        let mut micro_batches = Vec::new();
        while self.position < end {
            let next = self.end_of_run(&self.order, self.position, end, self.options.micro_batch_tokens);
            micro_batches.push(PairBatch::new(self.set, &self.order[self.position..next]));
            self.position = next;
        }
        Some(micro_batches)
    }

    /// Where the loader stands.
    pub fn state(&self) -> LoaderState {
        LoaderState { epoch: self.epoch, position: self.position as u64, seed: self.options.seed }
    }

    /// Continues from a saved place.
    ///
    /// # Errors
    /// [`DataError::BadOption`] if the state belongs to another seed or another set.
    pub fn seek(&mut self, state: LoaderState) -> Result<(), DataError> {
        if state.seed != self.options.seed || state.position > self.set.pairs.len() as u64 {
            return Err(DataError::BadOption {
                option: "seed",
                got: self.options.seed.to_string(),
                want: format!("{} with the same pairs, as in the run that is continued", state.seed),
            });
        }
        self.epoch = state.epoch;
        self.position = state.position as usize;
        self.order = self.order_of(state.epoch);
        Ok(())
    }

    fn order_of(&self, epoch: u64) -> Vec<u32> {
        if self.options.is_shuffled {
            permutation(self.set.pairs.len(), self.options.seed, epoch)
        } else {
            (0..self.set.pairs.len() as u32).collect()
        }
    }

    /// End of the longest run of pairs from `start` within `limit_tokens`, at least one pair.
    fn end_of_run(&self, order: &[u32], start: usize, end: usize, limit_tokens: usize) -> usize {
        let mut num_tokens = 0;
        for (offset, &index) in order[start..end].iter().enumerate() {
            num_tokens += self.set.pairs[index as usize].num_tokens();
            if num_tokens > limit_tokens && offset > 0 {
                return start + offset;
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat_template::ChatTemplate;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn pairs_become_documents_with_loss_on_answers() {
        let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
        let tokenizer = Tokenizer::load(golden).expect("tokenizer");
        let template = ChatTemplate::load(golden).expect("template");
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("p.jsonl");
        let lines: Vec<String> = (0..9)
            .map(|n| format!("{{\"prompt\": \"What is {n} + {n}?\", \"chosen\": \"It is {}.\", \"rejected\": \"I do not know {n}.\"}}", 2 * n))
            .collect();
        std::fs::write(&path, lines.join("\n")).expect("write");
        let tokeniser = Tokeniser { tokenizer: &tokenizer, template: Some(&template), context_tokens: 128 };
        let set = PairSet::read(&path, &ReadOptions::default(), &tokeniser).expect("read");
        assert_eq!((set.pairs.len(), set.dropped), (9, 0));
        let pair = &set.pairs[3];
        assert!(tokenizer.decode(&pair.prompt, false).expect("decode").ends_with("assistant<|end_header_id|>\n\n"));
        assert_eq!(tokenizer.decode(&pair.chosen, false).expect("decode"), "It is 6.<|eot_id|>");
        let batch = PairBatch::new(&set, &[3, 4]);
        assert_eq!(batch.batch.num_documents(), 4);
        let (chosen, rejected) = batch.spans(1);
        let targets = |range: std::ops::Range<usize>| batch.batch.targets[range].to_vec();
        assert_eq!(targets(chosen), set.pairs[4].chosen);
        assert_eq!(targets(rejected), set.pairs[4].rejected);

        let options =
            PairLoaderOptions { batch_tokens: 300, micro_batch_tokens: 150, seed: 5, is_shuffled: true, epochs: 2 };
        let steps: Vec<Vec<PairBatch>> = {
            let mut loader = PairLoader::new(&set, options);
            std::iter::from_fn(|| loader.next_step()).collect()
        };
        assert_eq!(steps.len() as u64, PairLoader::new(&set, options).total_steps());
        let mut seen: Vec<u32> = steps.iter().flatten().flat_map(|batch| batch.pairs.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..9).flat_map(|n| [n, n]).collect::<Vec<_>>());
        for cut in 0..steps.len() {
            let mut first = PairLoader::new(&set, options);
            for _ in 0..cut {
                first.next_step();
            }
            let mut second = PairLoader::new(&set, options);
            second.seek(first.state()).expect("seek");
            assert_eq!(std::iter::from_fn(|| second.next_step()).collect::<Vec<_>>(), steps[cut..]);
        }
    }
}
