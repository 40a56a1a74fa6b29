//! From tokenised rows to the micro-batches of optimizer steps.
//!
//! The order of everything is a function of (seed, epoch) alone, so a position is two numbers ([`LoaderState`]), whatever the number
//! of threads. An epoch is planned as a whole: choose rows, order them, lay them into contexts, fill steps and micro-batches. A step
//! never reaches into the next epoch, so the last step of an epoch may be smaller.

use std::collections::BTreeMap;

use findap_data::{Batch, TokenizedRow};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::recipe::{Fill, Join, Length, Packing};

/// What belongs together: the documents of one data row. One for a text or a conversation, several for a pre-packed row, two for a
/// preference pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Index of the source.
    pub source: usize,
    /// Row in the source, from 0.
    pub row: usize,
    /// The documents, in order.
    pub documents: Vec<TokenizedRow>,
}

impl Item {
    /// Tokens of all documents.
    pub fn num_tokens(&self) -> usize {
        self.documents.iter().map(TokenizedRow::len).sum()
    }

    /// Loss-bearing tokens of all documents.
    pub fn num_loss_tokens(&self) -> usize {
        self.documents.iter().map(TokenizedRow::num_loss_tokens).sum()
    }
}

/// Which side of a mixture a source is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Plain text.
    Text,
    /// Conversations, and everything else.
    Chat,
}

/// A source of items.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its name in the recipe.
    pub name: String,
    /// Its side.
    pub side: Side,
    /// Its share among the rows of its side.
    pub share: Option<f64>,
}

/// How items become steps.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// Seed of every choice and order.
    pub seed: u64,
    /// Whether rows are shuffled.
    pub shuffle: bool,
    /// How sides come together.
    pub join: Join,
    /// Whether text is cut to the number of chat rows.
    pub downsample: bool,
    /// How items are laid into contexts; `None`: each item is a context of its own.
    pub packing: Option<Packing>,
    /// The longest context, in tokens.
    pub context_tokens: usize,
    /// What a step holds.
    pub fill: Fill,
    /// What a micro-batch holds.
    pub micro: Fill,
}

/// The position: the next step is `step` of `epoch`, both from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoaderState {
    /// Passes over the data that are complete.
    pub epoch: u64,
    /// Steps of this pass that are done.
    pub step: u64,
}

/// One forward and backward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct MicroBatch {
    /// The documents.
    pub batch: Batch,
    /// The items they came from, by index, in order.
    pub items: Vec<usize>,
}

/// The realised proportions of one source in the first epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// The source.
    pub name: String,
    /// Rows there are.
    pub rows_available: usize,
    /// Rows taken.
    pub rows: usize,
    /// Tokens of these.
    pub tokens: usize,
    /// Loss-bearing tokens of these.
    pub loss_tokens: usize,
}

/// Steps of micro-batches of contexts of items.
type Plan = Vec<Vec<Vec<usize>>>;

/// Gives the micro-batches of one step after the other.
#[derive(Debug)]
pub struct Loader {
    sources: Vec<Source>,
    items: Vec<Item>,
    options: LoaderOptions,
    state: LoaderState,
    /// The plan of epoch `state.epoch`: steps, micro-batches, items.
    plan: Plan,
    planned_epoch: u64,
}

impl Loader {
    /// A loader at the beginning. Items without a document are not used.
    pub fn new(sources: Vec<Source>, mut items: Vec<Item>, options: LoaderOptions) -> Self {
        items.retain(|item| item.num_tokens() > 0);
        let mut loader =
            Self { sources, items, options, state: LoaderState::default(), plan: Vec::new(), planned_epoch: 0 };
        loader.plan = loader.plan_epoch(0);
        loader
    }

    /// The items, for those who need them by index.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The name of an item: `source:row`.
    pub fn item_name(&self, index: usize) -> String {
        let item = &self.items[index];
        format!("{}:{}", self.sources[item.source].name, item.row)
    }

    /// The position.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// Goes to a position.
    pub fn restore(&mut self, state: LoaderState) {
        self.state = state;
        self.plan_current();
    }

    /// Steps of `length`; the first epoch's steps and tokens stand for every epoch's.
    pub fn total_steps(&self, length: Length) -> u64 {
        let steps = self.plan.len() as u64;
        match length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => (epochs * steps as f64).ceil() as u64,
            Length::Tokens(tokens) => {
                let per_step = self.epoch_tokens() as f64 / steps.max(1) as f64;
                (tokens as f64 / per_step.max(1.0)).ceil() as u64
            }
        }
    }

    /// Tokens of the current epoch.
    pub fn epoch_tokens(&self) -> usize {
        self.plan.iter().flatten().flatten().map(|item| self.items[*item].num_tokens()).sum()
    }

    /// Tokens of the largest micro-batch and of the longest document that any epoch can give.
    pub fn limits(&self) -> (usize, usize) {
        let longest = self.items.iter().flat_map(|item| &item.documents).map(TokenizedRow::len).max().unwrap_or(0);
        let context = match self.options.packing {
            Some(_) => self.options.context_tokens,
            None => self.items.iter().map(Item::num_tokens).max().unwrap_or(0),
        };
        let all: usize = self.items.iter().map(Item::num_tokens).sum();
        let largest = match self.options.micro {
            Fill::Tokens(tokens) => tokens.max(context),
            Fill::Rows(rows) => rows * context,
        };
        (largest.min(all.max(1)), longest)
    }

    /// What each source gives to the current epoch.
    pub fn report(&self) -> Vec<SourceReport> {
        let mut reports: Vec<SourceReport> = self
            .sources
            .iter()
            .enumerate()
            .map(|(index, source)| SourceReport {
                name: source.name.clone(),
                rows_available: self.items.iter().filter(|item| item.source == index).count(),
                rows: 0,
                tokens: 0,
                loss_tokens: 0,
            })
            .collect();
        for item in self.plan.iter().flatten().flatten().map(|item| &self.items[*item]) {
            let report = &mut reports[item.source];
            report.rows += 1;
            report.tokens += item.num_tokens();
            report.loss_tokens += item.num_loss_tokens();
        }
        reports
    }

    /// The micro-batches of the next step, and the position moves on. Empty only when there are no items at all.
    pub fn next_step(&mut self) -> Vec<MicroBatch> {
        self.plan_current();
        let Some(step) = self.plan.get(self.state.step as usize) else { return Vec::new() };
        let micro_batches = step.iter().map(|items| self.micro_batch(items)).collect();
        self.state.step += 1;
        micro_batches
    }

    /// All micro-batches of one pass, at most `max_tokens` tokens of them (at least one micro-batch): for the dev loss.
    pub fn one_pass(&self, max_tokens: usize) -> Vec<MicroBatch> {
        let mut taken = Vec::new();
        let mut tokens = 0;
        for items in self.plan.iter().flatten() {
            let micro = self.micro_batch(items);
            tokens += micro.batch.num_tokens();
            if tokens > max_tokens && !taken.is_empty() {
                break;
            }
            taken.push(micro);
        }
        taken
    }

    fn micro_batch(&self, items: &[usize]) -> MicroBatch {
        let mut batch = Batch::new();
        for document in items.iter().flat_map(|item| &self.items[*item].documents) {
            batch.push_document(&document.ids, &document.mask);
        }
        MicroBatch { batch, items: items.to_vec() }
    }

    /// Moves to the next epoch where this one is done, and plans it.
    fn plan_current(&mut self) {
        if self.planned_epoch != self.state.epoch {
            self.planned_epoch = self.state.epoch;
            self.plan = self.plan_epoch(self.state.epoch);
        }
        if !self.plan.is_empty() && self.state.step >= self.plan.len() as u64 {
            self.state = LoaderState { epoch: self.state.epoch + 1, step: 0 };
            self.planned_epoch = self.state.epoch;
            self.plan = self.plan_epoch(self.state.epoch);
        }
    }

    fn plan_epoch(&self, epoch: u64) -> Plan {
        let mut text = self.choose(Side::Text, None);
        let chat = self.choose(Side::Chat, None);
        if self.options.downsample && !chat.is_empty() && text.len() > chat.len() {
            text = self.choose(Side::Text, Some(chat.len()));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed ^ 0x6f72_6465_7200);
        rng.set_stream(epoch);
        let groups = match self.options.join {
            Join::Joint => vec![text.into_iter().chain(chat).collect()],
            Join::Sequential => vec![text, chat],
        };
        let mut contexts = Vec::new();
        for mut group in groups {
            if self.options.shuffle {
                group.shuffle(&mut rng);
            }
            contexts.extend(self.pack(&group));
        }
        self.fill(contexts)
    }

    /// The items of a side: each source's share of at most `limit` rows, chosen once for all epochs, in the order of the data.
    fn choose(&self, side: Side, limit: Option<usize>) -> Vec<usize> {
        let mut by_source: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, item) in self.items.iter().enumerate() {
            if self.sources[item.source].side == side {
                by_source.entry(item.source).or_default().push(index);
            }
        }
        let counts: Vec<(usize, Option<f64>)> =
            by_source.iter().map(|(source, items)| (items.len(), self.sources[*source].share)).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed ^ 0x6368_6f69_6365);
        let mut chosen = Vec::new();
        for (items, take) in by_source.into_values().zip(quotas(&counts, limit)) {
            let mut items = items;
            if take < items.len() {
                items.shuffle(&mut rng);
                items.truncate(take);
                items.sort_unstable();
            }
            chosen.extend(items);
        }
        chosen
    }

    /// Lays items into contexts. No item is split.
    fn pack(&self, order: &[usize]) -> Vec<Vec<usize>> {
        let Some(packing) = self.options.packing else { return order.iter().map(|item| vec![*item]).collect() };
        let capacity = self.options.context_tokens;
        let mut contexts: Vec<Vec<usize>> = Vec::new();
        // Room left -> open contexts, the oldest first.
        let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &item in order {
            let length = self.items[item].num_tokens();
            let fitting = open.range(length..).next().map(|(room, _)| *room);
            let (context, room) = match fitting {
                Some(room) => {
                    let members = open.get_mut(&room).expect("invariant: the key was just found");
                    let context = members.remove(0);
                    if members.is_empty() {
                        open.remove(&room);
                    }
                    (context, room)
                }
                None => {
                    if packing == Packing::NextFit {
                        open.clear();
                    }
                    contexts.push(Vec::new());
                    (contexts.len() - 1, capacity)
                }
            };
            contexts[context].push(item);
            open.entry(room.saturating_sub(length)).or_default().push(context);
        }
        contexts
    }

    fn fill(&self, contexts: Vec<Vec<usize>>) -> Plan {
        let length = |contexts: &[Vec<usize>]| {
            contexts.iter().flatten().map(|item| self.items[*item].num_tokens()).sum::<usize>()
        };
        let group = |contexts: Vec<Vec<usize>>, fill: Fill| {
            let mut groups: Vec<Vec<Vec<usize>>> = Vec::new();
            for context in contexts {
                let fits = groups.last().is_some_and(|group| match fill {
                    Fill::Rows(rows) => group.len() < rows,
                    Fill::Tokens(tokens) => length(group) + length(std::slice::from_ref(&context)) <= tokens,
                });
                if fits {
                    groups.last_mut().expect("invariant: it was just looked at").push(context);
                } else {
                    groups.push(vec![context]);
                }
            }
            groups
        };
        let steps = group(contexts, self.options.fill);
        steps
            .into_iter()
            .map(|step| group(step, self.options.micro).into_iter().map(|micro| micro.concat()).collect())
            .collect()
    }
}

/// Rows to take of each source of a side, from (rows, share) and a limit on their sum. Sources with shares are cut so that their
/// shares hold; the others fill the rest in proportion to their sizes. No row is taken twice.
fn quotas(sources: &[(usize, Option<f64>)], limit: Option<usize>) -> Vec<usize> {
    let shared: f64 = sources.iter().filter_map(|(_, share)| *share).sum();
    let free: usize = sources.iter().filter(|(_, share)| share.is_none()).map(|(rows, _)| *rows).sum();
    let mut total = limit.map_or(f64::INFINITY, |limit| limit as f64);
    for (rows, share) in sources {
        if let Some(share) = share {
            total = total.min(*rows as f64 / share);
        }
    }
    let scale = if free == 0 && shared > 0.0 { 1.0 / shared } else { 1.0 };
    if scale != 1.0 {
        total = sources
            .iter()
            .filter_map(|(rows, share)| Some(*rows as f64 / (share.as_ref()? * scale)))
            .fold(f64::INFINITY, f64::min);
        total = total.min(limit.map_or(f64::INFINITY, |limit| limit as f64));
    }
    let rest_share = (1.0 - shared * scale).max(0.0);
    if free > 0 && rest_share > 0.0 {
        total = total.min(free as f64 / rest_share);
    }
    let take = |(rows, share): &(usize, Option<f64>)| {
        let part = match share {
            Some(share) => share * scale,
            None => rest_share * *rows as f64 / free.max(1) as f64,
        };
        ((total * part).round() as usize).min(*rows)
    };
    sources.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(source: usize, row: usize, length: usize) -> Item {
        let ids = (0..length).map(|t| (1000 * source + row + t) as u32).collect();
        Item { source, row, documents: vec![TokenizedRow { ids, mask: vec![true; length] }] }
    }

    fn options() -> LoaderOptions {
        LoaderOptions {
            seed: 1,
            shuffle: true,
            join: Join::Joint,
            downsample: true,
            packing: Some(Packing::BestFit),
            context_tokens: 64,
            fill: Fill::Tokens(256),
            micro: Fill::Tokens(128),
        }
    }

    fn loader(options: LoaderOptions) -> Loader {
        let source = |name: &str, side| Source { name: name.to_owned(), side, share: None };
        let items =
            (0..60).map(|row| item(0, row, 3 + row % 50)).chain((0..20).map(|row| item(1, row, 5 + row))).collect();
        Loader::new(vec![source("text", Side::Text), source("chat", Side::Chat)], items, options)
    }

    #[test]
    fn text_is_cut_to_the_rows_of_chat_and_every_row_comes_once() {
        let loader = loader(options());
        let report = loader.report();
        assert_eq!((report[0].rows, report[0].rows_available, report[1].rows), (20, 60, 20));
        let mut seen: Vec<usize> = loader.plan.iter().flatten().flatten().copied().collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 40);
    }

    #[test]
    fn no_context_step_or_micro_batch_is_too_large() {
        for packing in [Packing::BestFit, Packing::NextFit] {
            let mut loader = loader(LoaderOptions { packing: Some(packing), ..options() });
            for _ in 0..loader.plan.len() {
                let step = loader.next_step();
                assert!(step.iter().map(|micro| micro.batch.num_tokens()).sum::<usize>() <= 256);
                assert!(step.iter().all(|micro| micro.batch.num_tokens() <= 128 && !micro.batch.is_empty()));
            }
            assert!(loader.limits().0 <= 128);
        }
    }

    #[test]
    fn a_position_is_two_numbers() {
        let mut first = loader(options());
        let mut all = Vec::new();
        let mut states = Vec::new();
        for _ in 0..3 * first.plan.len() {
            states.push(first.state());
            all.push(first.next_step());
        }
        for (index, state) in states.into_iter().enumerate() {
            let mut other = loader(options());
            other.restore(state);
            assert_eq!(other.next_step(), all[index], "{state:?}");
        }
        assert_ne!(all[0], all[all.len() / 3], "epochs differ in their order");
    }

    #[test]
    fn rows_in_order_stay_as_given() {
        let options = LoaderOptions {
            shuffle: false,
            packing: None,
            fill: Fill::Rows(4),
            micro: Fill::Rows(2),
            downsample: false,
            ..options()
        };
        let mut loader = loader(options);
        let step = loader.next_step();
        assert_eq!(step.iter().map(|micro| micro.items.clone()).collect::<Vec<_>>(), [vec![0, 1], vec![2, 3]]);
        assert_eq!(loader.total_steps(Length::Epochs(1.0)), 20);
        assert_eq!(loader.total_steps(Length::Epochs(0.5)), 10);
    }

    #[test]
    fn shares_hold() {
        assert_eq!(quotas(&[(100, Some(0.2)), (100, None)], None), [25, 100]);
        assert_eq!(quotas(&[(100, Some(0.2)), (10_000, None)], None), [100, 400]);
        assert_eq!(quotas(&[(100, Some(0.5)), (300, Some(0.5))], None), [100, 100]);
        assert_eq!(quotas(&[(100, None), (300, None)], Some(40)), [10, 30]);
        assert_eq!(quotas(&[(100, Some(0.5)), (300, None)], Some(40)), [20, 20]);
        assert_eq!(quotas(&[(100, Some(0.25)), (100, Some(0.25))], None), [100, 100]);
    }

    #[test]
    fn nothing_in_nothing_out() {
        let mut loader = Loader::new(Vec::new(), Vec::new(), options());
        assert!(loader.next_step().is_empty());
        assert_eq!(loader.total_steps(Length::Epochs(1.0)), 0);
    }
}
