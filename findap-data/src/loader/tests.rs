use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::capability::{Capability, Domain};
use crate::encode::RecordEncoder;
use crate::mixture::{Join, MixtureOptions, leave_unreached, plan};
use crate::readers::{Format, Kind};
use crate::store::Source;
use crate::store::rows::{Amount, RowsReport};
use crate::tokenizer::Tokenizer;

fn source(path: &Path, name: &str, kind: Kind, share: Option<f64>) -> Source {
    Source {
        name: name.into(),
        paths: vec![path.to_path_buf()],
        max_bad_rows: 0,
        kind,
        format: Format::Jsonl,
        columns: BTreeMap::new(),
        domain: Domain::General,
        capability: Capability::Concept,
        share,
    }
}

/// Stores of documents with the given lengths; token values count up over all.
fn stores(lengths: &[Vec<usize>], shares: &[Option<f64>]) -> (tempfile::TempDir, Vec<Source>, Vec<Arc<TokenStore>>) {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| Tokenizer::load(golden).expect("tokenizer"));
    let folder = tempfile::tempdir().expect("folder");
    let mut next = 0;
    let mut sources = Vec::new();
    let mut built = Vec::new();
    for (index, lengths) in lengths.iter().enumerate() {
        let path = folder.path().join(format!("{index}.jsonl"));
        let lines: Vec<String> = lengths
            .iter()
            .map(|&length| {
                let ids: Vec<usize> = (next..next + length).map(|id| id % 2000).collect();
                next += length;
                format!("{{\"ids\": {ids:?}, \"mask\": {:?}}}", vec![1; length])
            })
            .collect();
        std::fs::write(&path, lines.join("\n")).expect("write");
        // The first set stands for texts.
        let kind = if index == 0 { Kind::Text } else { Kind::Chat };
        let source = source(&path, &format!("set{index}"), kind, shares.get(index).copied().flatten());
        let encoder = RecordEncoder { tokenizer, template: None, context_tokens: 32 };
        built.push(Arc::new(
            TokenStore::build(&folder.path().join(format!("s{index}")), &source, &encoder).expect("build"),
        ));
        sources.push(source);
    }
    (folder, sources, built)
}

fn options(epochs: f64) -> LoaderOptions {
    LoaderOptions {
        context_tokens: 32,
        batch: Fill::Tokens(96),
        micro_batch: Fill::Tokens(64),
        packing: Some(Strategy::BestFit),
        seed: 7,
        is_shuffled: true,
        length: Length::Epochs(epochs),
    }
}

fn all_steps(loader: &mut Loader) -> Vec<Step> {
    std::iter::from_fn(|| loader.next_step()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn no_token_is_lost_and_resuming_anywhere_changes_nothing(
        lengths in prop::collection::vec(2usize..=32, 1..60), cut in 0usize..40, packing in 0usize..3, by_contexts in any::<bool>(),
    ) {
        let (_folder, _, stores) = stores(std::slice::from_ref(&lengths), &[]);
        let rows = all_rows(&stores);
        let packing = [None, Some(Strategy::BestFit), Some(Strategy::NextFit)][packing];
        let (batch, micro_batch) = if by_contexts {
            (Fill::Contexts(3), Fill::Contexts(2))
        } else {
            (Fill::Tokens(96), Fill::Tokens(64))
        };
        let options = LoaderOptions { packing, batch, micro_batch, ..options(2.0) };
        let new = || Loader::new(stores.clone(), std::slice::from_ref(&rows), options).expect("loader");
        let (max_tokens, max_positions) = new().limits();
        prop_assert_eq!(max_positions, lengths.iter().copied().max().unwrap_or(0));
        let steps = all_steps(&mut Loader::new(
            stores.clone(), std::slice::from_ref(&rows), LoaderOptions { length: Length::Epochs(1.0), ..options },
        ).expect("loader"));
        let num_tokens: usize = steps.iter().map(Step::num_tokens).sum();
        prop_assert_eq!(num_tokens, lengths.iter().sum::<usize>());
        let num_loss: usize = steps.iter().map(Step::num_loss_tokens).sum();
        prop_assert_eq!(num_loss, lengths.iter().map(|length| length - 1).sum::<usize>());
        let steps = all_steps(&mut new());
        prop_assert_eq!(steps.len() as u64, new().total_steps());
        for step in &steps {
            prop_assert!(step.num_tokens() <= 96);
        }
        for micro in steps.iter().flat_map(|step| &step.micro_batches) {
            let batch = &micro.batch;
            prop_assert!(batch.num_tokens() <= 64 && batch.num_tokens() <= max_tokens && !batch.is_empty());
            for document in 0..batch.num_documents() {
                let range = batch.document(document);
                prop_assert_eq!(batch.positions[range.start], 0);
                prop_assert_eq!(batch.targets[range.end - 1], crate::IGNORE);
                prop_assert_eq!(&batch.targets[range.start..range.end - 1], &batch.tokens[range.start + 1..range.end]);
            }
        }
        let mut first = new();
        let cut = cut.min(steps.len());
        for _ in 0..cut { first.next_step(); }
        let state: LoaderState = serde_json::from_str(&serde_json::to_string(&first.state()).expect("json")).expect("state");
        let mut second = new();
        second.seek(state).expect("seek");
        prop_assert_eq!(&all_steps(&mut second)[..], &steps[cut..]);
    }
}

#[test]
fn epochs_differ_in_order_and_lengths_are_kept() {
    let (_folder, _, stores) = stores(&[vec![20; 30]], &[]);
    let rows = all_rows(&stores);
    let new = |length| {
        Loader::new(stores.clone(), std::slice::from_ref(&rows), LoaderOptions { length, ..options(2.0) })
            .expect("loader")
    };
    let steps = all_steps(&mut new(Length::Epochs(2.0)));
    assert_eq!(steps.len(), 16);
    assert_ne!(steps[0], steps[8]);
    for (length, want) in [
        (Length::Epochs(0.5), 4),
        (Length::Epochs(0.51), 5),
        (Length::Steps(11), 11),
        (Length::Tokens(600), 8),
        (Length::Tokens(601), 9),
    ] {
        let mut loader = new(length);
        assert_eq!((loader.total_steps(), all_steps(&mut loader).len() as u64), (want, want), "{length:?}");
    }
    let mut longer = new(Length::Steps(11));
    while longer.next_step().is_some() {}
    assert!(new(Length::Steps(5)).seek(longer.state()).is_err());
    let dev = new(Length::Epochs(1.0));
    let tokens = |max| dev.one_pass(max).map(|micro| micro.batch.num_tokens()).sum::<usize>();
    assert_eq!((tokens(usize::MAX), tokens(41), tokens(40)), (600, 60, 40));
}

#[test]
fn rows_in_order_stay_as_given() {
    let (_folder, _, stores) = stores(&[(2..22).collect()], &[]);
    let options = LoaderOptions {
        packing: None,
        is_shuffled: false,
        batch: Fill::Contexts(4),
        micro_batch: Fill::Contexts(2),
        ..options(1.0)
    };
    let mut loader = Loader::new(stores.clone(), &[all_rows(&stores)], options).expect("loader");
    let step = loader.next_step().expect("step");
    let rows: Vec<Vec<u32>> =
        step.micro_batches.iter().map(|micro| micro.rows.iter().map(|row| row.row).collect()).collect();
    assert_eq!(rows, [[0, 1], [2, 3]]);
    assert!(Loader::new(Vec::new(), &[], options).expect("empty").next_step().is_none());
}

#[test]
fn texts_are_cut_to_the_number_of_conversations() {
    let (_folder, sources, stores) = stores(&[vec![8; 50], vec![4; 12], vec![6; 8]], &[]);
    let mixture =
        |join, downsample| plan(&sources, &stores, MixtureOptions { join, downsample, seed: 3 }).expect("plan");
    let joint = mixture(Join::Joint, true);
    assert_eq!(joint.phases.len(), 1);
    let rows: Vec<u64> = joint.report.sets.iter().map(|set| set.rows).collect();
    assert_eq!(rows, [20, 12, 8]);
    assert_eq!(joint.report.by_kind()[0].rows, (20, 0.5));
    assert_eq!(joint.report.totals(), (40, 20 * 8 + 12 * 4 + 8 * 6, 20 * 7 + 12 * 3 + 8 * 5));
    assert_eq!(joint, mixture(Join::Joint, true));
    let sequential = mixture(Join::Sequential, false);
    assert_eq!(sequential.phases.iter().map(Vec::len).collect::<Vec<_>>(), [50, 20]);
    let mut loader = Loader::new(stores.clone(), &sequential.phases, options(1.0)).expect("loader");
    let half = Loader::new(stores.clone(), &sequential.phases, options(0.5)).expect("loader");
    assert!(half.phases.iter().all(|phase| phase.steps > 0), "half of each phase, not the first phase alone");
    for wanted in [1, 2, 3, 7, 20] {
        let exact = LoaderOptions { length: Length::Steps(wanted), ..options(1.0) };
        assert_eq!(Loader::new(stores.clone(), &sequential.phases, exact).expect("loader").total_steps(), wanted);
    }
    let first = loader.next_step().expect("step");
    assert!(
        first
            .micro_batches
            .iter()
            .all(|micro| (0..micro.batch.num_documents()).all(|d| micro.batch.document(d).len() == 8))
    );
}

#[test]
fn a_share_that_is_not_realised_is_said() {
    let options = MixtureOptions { join: Join::Joint, downsample: false, seed: 1 };
    let notes = |shares: &[Option<f64>]| {
        let lengths = [vec![4; 4], vec![4; 200], vec![4; 200]];
        let (_folder, sources, stores) = stores(&lengths[..shares.len()], shares);
        plan(&sources, &stores, options).expect("a mixture").notes
    };
    assert!(notes(&[None, Some(0.25), None]).is_empty());
    assert!(notes(&[None, Some(0.25), Some(0.75)]).is_empty());
    let said = notes(&[None, Some(0.1), Some(0.3)]);
    assert!(said[0].starts_with("set1: it has a share of 0.25") && said[0].contains("0.1 is asked for"), "{said:?}");
    assert_eq!((said.len(), notes(&[None, Some(0.5)]).len()), (2, 1), "alone a source is all of its side");
}

#[test]
fn shares_are_met_by_leaving_out() {
    let (_folder, sources, stores) = stores(&[vec![4; 10], vec![4; 60], vec![4; 40]], &[None, Some(0.2), None]);
    let options = MixtureOptions { join: Join::Joint, downsample: false, seed: 1 };
    let mixture = plan(&sources, &stores, options).expect("plan");
    let rows: Vec<u64> = mixture.report.sets.iter().map(|set| set.rows).collect();
    assert_eq!(rows, [10, 10, 40]);
    let mut bad = sources.clone();
    bad[1].share = Some(1.5);
    assert!(matches!(plan(&bad, &stores, options), Err(DataError::BadOption { option: "share", .. })));
    bad[1].share = Some(1e-6);
    let error = plan(&bad, &stores, options).expect_err("none of its rows").to_string();
    assert!(error.contains("`set1` at least one of its"), "{error}");
}

/// Where the rows of two sources go, with every reason to leave one out.
#[test]
fn every_row_read_is_in_one_part_of_its_source() {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    let tokenizer = Tokenizer::load(golden).expect("tokenizer");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: None, context_tokens: 32 };
    let folder = tempfile::tempdir().expect("folder");
    let build = |name: &str, kind, share, lines: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, lines).expect("write");
        let source = Source { max_bad_rows: 9, ..source(&path, name, kind, share) };
        let store = TokenStore::build(&folder.path().join(format!("{name}-store")), &source, &encoder).expect("build");
        (source, Arc::new(store))
    };
    let ids = |tokens: usize| format!("{{\"ids\": {:?}, \"mask\": {:?}}}\n", vec![7; tokens], vec![1; tokens]);
    let text = |words: usize| format!("{{\"text\": \"{}\"}}\n", "rates ".repeat(words));
    let chat = |answer: &str| format!("{{\"prompt\": \"a\", \"completion\": \"{answer}\"}}\n");
    let cases = [
        ("texts", Kind::Text, None, text(90) + "{\"text\": 3}\n{\"text\": \" \"}\n" + &text(3).repeat(20)),
        ("notes", Kind::Text, Some(0.25), text(3).repeat(30)),
        (
            "chats",
            Kind::Chat,
            None,
            chat("b").repeat(12) + "nonsense\n" + &chat("") + &chat(&"long ".repeat(60)).repeat(2),
        ),
        ("rows", Kind::Tokenized, None, ids(20).repeat(9) + &ids(40) + &ids(50)),
    ];
    let (sources, stores): (Vec<_>, Vec<_>) =
        cases.into_iter().map(|(name, kind, share, lines)| build(name, kind, share, lines)).unzip();
    let mix = MixtureOptions { join: Join::Joint, downsample: true, seed: 3 };
    let mut mixture = plan(&sources, &stores, mix).expect("plan");
    let length = Length::Steps(2);
    let mut loader =
        Loader::new(stores.clone(), &mixture.phases, LoaderOptions { length, ..options(1.0) }).expect("loader");
    let not_reached = loader.rows_not_reached();
    leave_unreached(&mut mixture.rows, &stores, &not_reached);
    let reached: Vec<RowRef> = all_steps(&mut loader)
        .iter()
        .flat_map(|step| &step.micro_batches)
        .flat_map(|micro| micro.rows.clone())
        .collect();
    for (index, account) in mixture.rows.iter().enumerate() {
        let kept = account.read - account.unreadable - account.empty - account.equal_answers - account.too_long.rows;
        assert_eq!(account.num_to_learn(), kept);
        let parts = [account.beyond_share, account.downsampled, account.not_reached, account.used];
        let sum = |of: fn(&Amount) -> u64| parts.iter().map(of).sum::<u64>();
        assert_eq!((sum(|part| part.rows), sum(|part| part.tokens)), (account.pieces.rows, account.pieces.tokens));
        let store = &stores[index];
        assert_eq!(
            (store.num_rows(), store.num_tokens()),
            (account.pieces.rows as usize, account.pieces.tokens as usize)
        );
        let used = reached.iter().filter(|at| at.store as usize == index).map(|at| at.row);
        assert_eq!(Amount::of(store, used), account.used, "{}", account.source);
    }
    let counts = |index: usize| {
        let of = &mixture.rows[index];
        (of.read, of.unreadable, of.empty, of.too_long, of.num_to_learn(), of.pieces.rows)
    };
    let (none, long) = (Amount::default(), mixture.rows[2].too_long);
    assert_eq!(counts(0), (23, 1, 1, none, 21, mixture.rows[0].pieces.rows));
    assert!(mixture.rows[0].pieces.rows > 21, "a long text is cut");
    assert_eq!(counts(2), (16, 1, 1, Amount { rows: 2, tokens: long.tokens }, 12, 12));
    assert!(long.tokens > 120 && mixture.rows[1].beyond_share.rows > 0 && mixture.rows[0].downsampled.rows > 0);
    assert_eq!(counts(3), (11, 0, 0, Amount { rows: 2, tokens: 90 }, 9, 9));
    assert!(mixture.rows.iter().any(|account| account.not_reached.rows > 0), "two steps are less than one pass");
    let report = RowsReport { sources: mixture.rows.clone(), notes: Vec::new() };
    for line in report.lines("group1") {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let text = report.lines("group1").join("\n");
    for said in [
        "texts: 23 rows read",
        "         1 rows that cannot be read",
        "         2 rows longer than the context left out",
    ] {
        assert!(text.contains(said), "{text}");
    }
    assert!(text.contains("context_tokens to keep 90 %: 40, all: 50"), "{text}");
}
