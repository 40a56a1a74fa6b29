//! Which rows a stage trains on.
//!
//! Joint training concatenates texts and conversations; with downsampling, as many texts are kept as there are conversations, by
//! number of rows. Sequential training keeps them as two phases. Source: FinDAP, arXiv:2501.04961 section 4 and appendix B.3.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capability::{Capability, Domain};
use crate::error::DataError;
use crate::readers::Kind;
use crate::shuffle::permutation;
use crate::store::rows::{Amount, Reason, SourceRows};
use crate::store::{Source, TokenStore};

/// A row of one of several stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRef {
    /// Index of the store.
    pub store: u32,
    /// Index inside of it.
    pub row: u32,
}

/// How texts and conversations meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// In one shuffled stream.
    #[default]
    Joint,
    /// First all texts, then all conversations.
    Sequential,
}

/// How a mixture is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MixtureOptions {
    /// How texts and conversations meet.
    pub join: Join,
    /// Keep as many texts as there are conversations.
    pub downsample: bool,
    /// Decides which rows are kept.
    pub seed: u64,
}

/// The rows of a stage, in phases that are trained one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// Rows of each phase, in the order of stores.
    pub phases: Vec<Vec<RowRef>>,
    /// What was realised.
    pub report: MixtureReport,
    /// What became of the rows of each source.
    pub rows: Vec<SourceRows>,
    /// Shares that are not those asked for.
    pub notes: Vec<String>,
}

/// Realised amounts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixtureReport {
    /// One entry per data set.
    pub sets: Vec<SetReport>,
}

/// What one data set gives to a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetReport {
    /// Its name in the recipe.
    pub name: String,
    /// What its records are for.
    pub kind: Kind,
    /// Its field.
    pub domain: Domain,
    /// What it teaches.
    pub capability: Capability,
    /// Rows it has.
    pub rows_available: u64,
    /// Rows taken.
    pub rows: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Their tokens that carry loss.
    pub loss_tokens: u64,
}

/// A sum over data sets with its part of the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// What is summed, such as "finance".
    pub name: String,
    /// Rows and their part of all rows, in 0..=1.
    pub rows: (u64, f64),
    /// Tokens and their part.
    pub tokens: (u64, f64),
    /// Loss-bearing tokens and their part.
    pub loss_tokens: (u64, f64),
}

impl MixtureReport {
    /// Proportions by data set.
    pub fn by_set(&self) -> Vec<Proportion> {
        self.grouped(|set| set.name.clone())
    }

    /// Proportions by domain.
    pub fn by_domain(&self) -> Vec<Proportion> {
        self.grouped(|set| set.domain.name().to_string())
    }

    /// Proportions by capability.
    pub fn by_capability(&self) -> Vec<Proportion> {
        self.grouped(|set| set.capability.name().to_string())
    }

    /// Proportions by kind: texts and conversations.
    pub fn by_kind(&self) -> Vec<Proportion> {
        self.grouped(|set| set.kind.name().to_string())
    }

    /// Rows, tokens and loss-bearing tokens of the whole stage (one epoch).
    pub fn totals(&self) -> (u64, u64, u64) {
        self.sets.iter().fold((0, 0, 0), |sum, set| (sum.0 + set.rows, sum.1 + set.tokens, sum.2 + set.loss_tokens))
    }

    fn grouped(&self, name_of: impl Fn(&SetReport) -> String) -> Vec<Proportion> {
        let totals = self.totals();
        let part = |value: u64, total: u64| (value, if total == 0 { 0.0 } else { value as f64 / total as f64 });
        let mut names: Vec<String> = Vec::new();
        for set in &self.sets {
            let name = name_of(set);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
            .into_iter()
            .map(|name| {
                let sum = |value: fn(&SetReport) -> u64| -> u64 {
                    self.sets.iter().filter(|set| name_of(set) == name).map(value).sum()
                };
                Proportion {
                    rows: part(sum(|set| set.rows), totals.0),
                    tokens: part(sum(|set| set.tokens), totals.1),
                    loss_tokens: part(sum(|set| set.loss_tokens), totals.2),
                    name,
                }
            })
            .collect()
    }
}

/// Chooses the rows of a stage from its data sets; `stores[i]` belongs to `sources[i]`.
///
/// Shares are met by leaving rows out, never by repeating them. Where all sets of a side have one, they are relative to their sum.
///
/// # Errors
/// [`DataError::BadOption`] if shares are not in (0, 1), add up to more than 1, or leave a set none of its rows.
pub fn plan(
    sources: &[Source],
    stores: &[std::sync::Arc<TokenStore>],
    options: MixtureOptions,
) -> Result<Mixture, DataError> {
    assert_eq!(sources.len(), stores.len(), "one store per source");
    let available: Vec<usize> = stores.iter().map(|store| store.num_rows()).collect();
    let is_text: Vec<bool> = sources.iter().map(|source| source.kind == Kind::Text).collect();
    let group =
        |wants_text: bool| -> Vec<usize> { (0..sources.len()).filter(|&set| is_text[set] == wants_text).collect() };
    let (texts, chats) = (group(true), group(false));
    let mut counts = available.clone();
    let mut notes = Vec::new();
    for members in [&texts, &chats] {
        apply_shares(sources, &available, members, &mut counts)?;
        notes.extend(unmet_shares(sources, members, &counts));
    }
    let mut kept: Vec<Vec<RowRef>> = (0..sources.len())
        .map(|set| {
            let order = permutation(available[set], options.seed, set as u64);
            let mut rows: Vec<u32> = order[..counts[set]].to_vec();
            rows.sort_unstable();
            rows.into_iter().map(|row| RowRef { store: set as u32, row }).collect()
        })
        .collect();
    let mut rows: Vec<SourceRows> = (0..sources.len())
        .map(|set| {
            let kept = Amount::of(&stores[set], kept[set].iter().map(|at| at.row));
            let mut account = SourceRows::of(&sources[set].name, &stores[set]);
            account.leave(Reason::BeyondShare, account.used.without(kept));
            account
        })
        .collect();
    // Rows that were tokenized elsewhere are of either kind, so they count as neither.
    let is_chat = |set: &&usize| sources[**set].kind == Kind::Chat;
    let num_chats: usize = chats.iter().filter(is_chat).map(|&set| kept[set].len()).sum();
    if options.downsample && num_chats > 0 {
        keep_first_of_shuffled(&mut kept, &texts, num_chats, options.seed);
    }
    for (account, (store, kept)) in rows.iter_mut().zip(stores.iter().zip(&kept)) {
        let kept = Amount::of(store, kept.iter().map(|at| at.row));
        account.leave(Reason::Downsampled, account.used.without(kept));
    }
    let report = MixtureReport {
        sets: sources
            .iter()
            .enumerate()
            .map(|(set, source)| SetReport {
                name: source.name.clone(),
                kind: source.kind,
                domain: source.domain,
                capability: source.capability,
                rows_available: available[set] as u64,
                rows: kept[set].len() as u64,
                tokens: kept[set].iter().map(|at| stores[set].row_tokens(at.row as usize) as u64).sum(),
                loss_tokens: kept[set].iter().map(|at| stores[set].row_loss_tokens(at.row as usize) as u64).sum(),
            })
            .collect(),
    };
    let collect =
        |members: &[usize]| -> Vec<RowRef> { members.iter().flat_map(|&set| kept[set].iter().copied()).collect() };
    let phases = match options.join {
        Join::Joint => vec![collect(&(0..sources.len()).collect::<Vec<_>>())],
        Join::Sequential => vec![collect(&texts), collect(&chats)],
    };
    Ok(Mixture { phases: phases.into_iter().filter(|phase| !phase.is_empty()).collect(), report, rows, notes })
}

/// Lowers `counts` until each set with a share has that share of its group.
fn apply_shares(
    sources: &[Source],
    available: &[usize],
    members: &[usize],
    counts: &mut [usize],
) -> Result<(), DataError> {
    let with_share: Vec<(usize, f64)> = members.iter().filter_map(|&set| Some((set, sources[set].share?))).collect();
    if with_share.is_empty() {
        return Ok(());
    }
    let sum: f64 = with_share.iter().map(|(_, share)| share).sum();
    let rest: Vec<usize> = members.iter().copied().filter(|&set| sources[set].share.is_none()).collect();
    let num_rest: usize = rest.iter().map(|&set| available[set]).sum();
    let is_bad = with_share.iter().any(|(_, share)| !(*share > 0.0 && *share <= 1.0)) || sum > 1.0 + 1e-9;
    if is_bad || (num_rest > 0 && sum >= 1.0) {
        return Err(DataError::BadOption {
            option: "share",
            got: format!("{:?}", with_share.iter().map(|(_, share)| share).collect::<Vec<_>>()),
            want: "numbers above 0 that leave room for the sets without a share (sum below 1)".into(),
        });
    }
    // With only sets that have shares, the shares are relative to their sum.
    let whole = if num_rest == 0 { sum } else { 1.0 };
    let mut total = f64::INFINITY;
    for &(set, share) in &with_share {
        total = total.min(available[set] as f64 * whole / share);
    }
    if num_rest > 0 {
        total = total.min(num_rest as f64 / (1.0 - sum));
    }
    for &(set, share) in &with_share {
        counts[set] = ((total * share / whole).round() as usize).min(available[set]);
    }
    if num_rest > 0 {
        let keep = total * (1.0 - sum) / num_rest as f64;
        for set in rest {
            counts[set] = ((available[set] as f64 * keep).round() as usize).min(available[set]);
        }
    }
    match members.iter().find(|&&set| available[set] > 0 && counts[set] == 0) {
        Some(&set) => Err(DataError::BadOption {
            option: "share",
            got: format!("{:?}", with_share.iter().map(|(_, share)| share).collect::<Vec<_>>()),
            want: format!("shares that leave `{}` at least one of its {} rows", sources[set].name, available[set]),
        }),
        None => Ok(()),
    }
}

/// What is said of sets whose part of the rows of their side is another than their share by more than half a percent of these rows.
fn unmet_shares(sources: &[Source], members: &[usize], counts: &[usize]) -> Vec<String> {
    let total: usize = members.iter().map(|&set| counts[set]).sum();
    let of_set = |&set: &usize| {
        let source = &sources[set];
        let (share, part) = (source.share?, counts[set] as f64 / total as f64);
        let note = || {
            let side = if source.kind == Kind::Text { "texts" } else { "conversations" };
            format!(
                "{}: it has a share of {part:.3} of the rows of {side}, and {share} is asked for; shares are met by leaving whole rows \
                 out, and where every source has one they are relative to their sum",
                source.name
            )
        };
        ((part - share).abs() > 0.005).then(note)
    };
    members.iter().filter_map(of_set).collect()
}

/// Shuffles the rows of `members` together and keeps the first `limit`, in the order of stores.
fn keep_first_of_shuffled(kept: &mut [Vec<RowRef>], members: &[usize], limit: usize, seed: u64) {
    let all: Vec<RowRef> = members.iter().flat_map(|&set| kept[set].iter().copied()).collect();
    if all.len() <= limit {
        return;
    }
    let order = permutation(all.len(), seed, u64::from(u32::MAX));
    let mut chosen: Vec<RowRef> = order[..limit].iter().map(|&index| all[index as usize]).collect();
    chosen.sort_unstable();
    for &set in members {
        kept[set] = chosen.iter().copied().filter(|at| at.store as usize == set).collect();
    }
}

/// Tells the accounts of the sources which of their rows are not reached; `accounts[i]` belongs to `stores[i]`.
pub fn leave_unreached(accounts: &mut [SourceRows], stores: &[std::sync::Arc<TokenStore>], rows: &[RowRef]) {
    for (index, (account, store)) in accounts.iter_mut().zip(stores).enumerate() {
        let of_store = rows.iter().filter(|at| at.store as usize == index).map(|at| at.row);
        account.leave(Reason::NotReached, Amount::of(store, of_store));
    }
}
