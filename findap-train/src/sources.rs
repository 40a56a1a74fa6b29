//! The sources of a recipe as token stores, and the loaders of a stage over them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use findap_data::encode::RecordEncoder;
use findap_data::mixture::{self, MixtureOptions, MixtureReport, leave_unreached};
use findap_data::readers::Kind;
use findap_data::store::rows::{RowsReport, SourceRows, Use};
use findap_data::{
    Capability, ChatTemplate, Domain, Format, Join, Loader, LoaderOptions, Source, Strategy, TokenStore, Tokenizer,
};
use findap_model::text_directory;

use crate::error::TrainError;
use crate::recipe::{
    AlignStage, DISTILLED, DataTable, Optimization, RIGHT_SOLUTIONS, Recipe, STAND_INS, Stage, TrainStage, locate,
};

const RESOLVED: &str = "invariant: a resolved recipe has this key";

/// Whether a source is what the run's own distillation makes.
fn is_distilled(name: &str) -> bool {
    [DISTILLED, RIGHT_SOLUTIONS].contains(&name)
}

/// What a stage trains on.
#[derive(Debug)]
pub struct StageData {
    /// Its optimizer steps.
    pub loader: Loader,
    /// The rows of its dev loss.
    pub dev: Option<Loader>,
    /// What was realised, per pass over the data.
    pub mixture: MixtureReport,
    /// The sources of `loader`, in order.
    pub sources: Vec<Source>,
    /// Their stores.
    pub stores: Vec<Arc<TokenStore>>,
    /// The fingerprint of each source, also of those of the dev loss.
    pub fingerprints: BTreeMap<String, String>,
    /// What became of every row of the sources, also of those of the dev loss.
    pub rows: RowsReport,
}

/// Opens the sources of one run for one model's tokenizer and chat template.
#[derive(Debug)]
pub struct Sources<'a> {
    recipe: &'a Recipe,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// Stores that were opened before, by their folder: the stages of a run share their sources.
    opened: RefCell<BTreeMap<PathBuf, Arc<TokenStore>>>,
}

impl<'a> Sources<'a> {
    /// Reads tokenizer and chat template of a model folder. `recipe` is resolved; `time_seconds` is what the template tells as the
    /// time, in seconds since 1970.
    ///
    /// # Errors
    /// [`TrainError::Data`].
    pub fn open(recipe: &'a Recipe, model: &Path, time_seconds: u64) -> Result<Self, TrainError> {
        let model = &text_directory(model)?;
        let template = ChatTemplate::find(model)?.map(|template| template.with_time(time_seconds));
        Ok(Self { recipe, tokenizer: Tokenizer::load(model)?, template, opened: RefCell::default() })
    }

    /// Text to ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The data of a stage; `None` for a distillation, and for what one has yet to write. What a stage reads beside that is read all the
    /// same, so that a fault in it is found before the distillation.
    ///
    /// # Errors
    /// As [`Sources::train`].
    pub fn of(&self, stage: &Stage) -> Result<Option<StageData>, TrainError> {
        let is_there = |name: &str| self.recipe.folder().join(name).with_extension("jsonl").exists();
        match stage {
            Stage::Train(stage) if !stage.uses_right_solutions() || is_there(RIGHT_SOLUTIONS) => {
                self.train(stage).map(Some)
            }
            Stage::Align(stage) if !stage.uses_distilled() || is_there(DISTILLED) => self.align(stage).map(Some),
            Stage::Train(stage) => self.read_others(stage.sources().chain(&stage.dev), &stage.optimization),
            Stage::Align(stage) => self.read_others(stage.pairs.iter().chain(&stage.dev), &stage.optimization),
            Stage::Distill(_) => Ok(None),
        }
    }

    /// The data of a `train` stage.
    ///
    /// # Errors
    /// [`TrainError::Data`] from reading, tokenising, mixing and packing.
    pub fn train(&self, stage: &TrainStage) -> Result<StageData, TrainError> {
        let keys = &stage.optimization;
        let mix = MixtureOptions { join: stage.join, downsample: stage.downsample, seed: self.recipe.run.seed };
        let options = self.options(keys, Some(stage.packing), stage.shuffle);
        self.stage(
            self.named(stage.sources()),
            self.named(stage.dev.iter()),
            mix,
            options,
            stage.optimization.dev_tokens,
        )
    }

    /// The pairs of an `align` stage: each a context of its own.
    ///
    /// # Errors
    /// As [`Sources::train`].
    pub fn align(&self, stage: &AlignStage) -> Result<StageData, TrainError> {
        let sources = match stage.pairs.as_slice() {
            [] => vec![self.distilled(DISTILLED, Kind::Preference)],
            pairs => self.named(pairs.iter()),
        };
        let mix = MixtureOptions { join: Join::Joint, downsample: false, seed: self.recipe.run.seed };
        let options = self.options(&stage.optimization, None, stage.shuffle);
        let dev = self.named(stage.dev.iter());
        let mut data = self.stage(sources, dev, mix, options, stage.optimization.dev_tokens)?;
        let has_stand_ins = stage.pairs.iter().any(|name| STAND_INS.contains(&name.as_str()));
        let is_without = !stage.uses_distilled() && !has_stand_ins;
        if let Some(distill) = self.recipe.distillation_before(&stage.name).filter(|_| is_without) {
            let align = &stage.name;
            data.rows.notes.push(format!(
                "{align} does not train on the pairs that {distill} makes, as its `pairs` does not name \"{DISTILLED}\""
            ));
        }
        Ok(data)
    }

    fn read_others<'n>(
        &self,
        names: impl Iterator<Item = &'n String>,
        keys: &Optimization,
    ) -> Result<Option<StageData>, TrainError> {
        let sources = self.named(names.filter(|name| !is_distilled(name)));
        self.stores(&sources, keys.context_tokens.expect(RESOLVED))?;
        Ok(None)
    }

    /// What the distillation of the run makes: pairs, or right solutions.
    fn distilled(&self, name: &str, kind: Kind) -> Source {
        Source {
            name: name.to_owned(),
            paths: vec![self.recipe.folder().join(name).with_extension("jsonl")],
            kind,
            format: Format::Jsonl,
            columns: BTreeMap::new(),
            domain: Domain::Finance,
            capability: Capability::Reasoning,
            max_bad_rows: 0,
            share: None,
        }
    }

    fn named<'n>(&self, names: impl Iterator<Item = &'n String>) -> Vec<Source> {
        let of = |name: &String| match name.as_str() {
            DISTILLED => Some(self.distilled(name, Kind::Preference)),
            RIGHT_SOLUTIONS => Some(self.distilled(name, Kind::Chat)),
            name => self.recipe.data.iter().find(|source| source.name == name).map(|table| self.source(table)),
        };
        names.filter_map(of).collect()
    }

    fn source(&self, table: &DataTable) -> Source {
        Source {
            name: table.name.clone(),
            paths: table.path.as_slice().iter().map(|path| locate(self.recipe.folder(), path)).collect(),
            kind: table.kind,
            format: table.format,
            columns: table.columns.clone(),
            domain: table.domain,
            capability: table.capability.unwrap_or(Capability::Chat),
            max_bad_rows: table.max_bad_rows,
            share: table.share,
        }
    }

    fn options(&self, keys: &Optimization, packing: Option<Strategy>, is_shuffled: bool) -> LoaderOptions {
        LoaderOptions {
            context_tokens: keys.context_tokens.expect(RESOLVED),
            batch: keys.fill().expect(RESOLVED),
            micro_batch: keys.micro_fill().expect(RESOLVED),
            packing,
            seed: self.recipe.run.seed,
            is_shuffled,
            length: keys.length().expect(RESOLVED),
        }
    }

    fn stage(
        &self,
        sources: Vec<Source>,
        dev_sources: Vec<Source>,
        mix: MixtureOptions,
        options: LoaderOptions,
        dev_tokens: usize,
    ) -> Result<StageData, TrainError> {
        let stores = self.stores(&sources, options.context_tokens)?;
        let dev_stores = self.stores(&dev_sources, options.context_tokens)?;
        let all = || sources.iter().chain(&dev_sources).zip(stores.iter().chain(&dev_stores));
        let fingerprints = all().map(|(source, store)| (source.name.clone(), store.fingerprint().to_owned())).collect();
        let notes_of = |(source, store): (&Source, &Arc<TokenStore>)| {
            let name = source.name.clone();
            store.report().notes().into_iter().map(move |note| format!("{name}: {note}"))
        };
        let planned = mixture::plan(&sources, &stores, mix)?;
        let notes = all().flat_map(notes_of).chain(planned.notes).collect();
        let loader = Loader::new(stores.clone(), &planned.phases, options)?;
        let mut rows = planned.rows;
        leave_unreached(&mut rows, &stores, &loader.rows_not_reached());
        let dev = match dev_stores.is_empty() {
            true => None,
            false => {
                let dev_rows = findap_data::loader::all_rows(&dev_stores);
                // Shuffled, so that the beginning is a sample of all sources.
                let options = LoaderOptions { is_shuffled: true, ..options };
                let dev = Loader::new(dev_stores.clone(), &[dev_rows], options)?;
                let account = |(source, store): (&Source, &Arc<TokenStore>)| SourceRows {
                    purpose: Use::Dev,
                    ..SourceRows::of(&source.name, store)
                };
                let mut accounts: Vec<SourceRows> = dev_sources.iter().zip(&dev_stores).map(account).collect();
                leave_unreached(&mut accounts, &dev_stores, &dev.rows_beyond(dev_tokens));
                rows.extend(accounts);
                Some(dev)
            }
        };
        Ok(StageData {
            loader,
            dev,
            mixture: planned.report,
            sources,
            stores,
            fingerprints,
            rows: RowsReport { sources: rows, notes },
        })
    }

    /// Stores lie in `data/tokens` of the run folder and are used again while nothing they depend on has changed.
    fn stores(&self, sources: &[Source], context_tokens: usize) -> Result<Vec<Arc<TokenStore>>, TrainError> {
        let encoder = RecordEncoder { tokenizer: &self.tokenizer, template: self.template.as_ref(), context_tokens };
        let folder = self.recipe.folder().join("data").join("tokens");
        let open = |source: &Source| {
            let folder = folder.join(format!("{}-{context_tokens}", source.name));
            // what the run distils is written while it goes on
            let is_fixed = !is_distilled(&source.name);
            if let Some(store) = self.opened.borrow().get(&folder).filter(|_| is_fixed) {
                return Ok(Arc::clone(store));
            }
            let store = Arc::new(TokenStore::build(&folder, source, &encoder)?);
            self.opened.borrow_mut().insert(folder, Arc::clone(&store));
            Ok(store)
        };
        sources.iter().map(open).collect()
    }
}
