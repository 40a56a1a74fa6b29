//! The arguments and the data that all commands on a recipe share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use findap_train::folder::FolderLock;
use findap_train::recipe::{self, Override, Recipe};
use findap_train::sources::Sources;

/// The arguments that all commands on a recipe share.
#[derive(clap::Args)]
pub(crate) struct Common {
    /// Recipe (TOML)
    pub(crate) recipe: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// The run folder, instead of runs/NAME
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

impl Common {
    /// Reads the recipe: its text as written, and the recipe as it runs.
    pub(crate) fn load(&self) -> Result<(String, Recipe)> {
        let (text, recipe) = self.read()?;
        Ok((text, self.resolve(recipe)?))
    }

    /// Resolves a recipe: makes every open choice, those that depend on the model from its configuration.
    pub(crate) fn resolve(&self, recipe: Recipe) -> Result<Recipe> {
        let config = findap_train::run::base_config(&recipe)?;
        Ok(recipe.resolve(self.run_dir.as_deref(), &config)?)
    }

    /// The run folder, which is known before the rest of the recipe can be resolved.
    pub(crate) fn folder(&self, recipe: &Recipe) -> PathBuf {
        let default = || Path::new("runs").join(&recipe.run.name);
        self.run_dir.clone().or_else(|| recipe.run.folder.clone()).unwrap_or_else(default)
    }

    /// Reads the recipe: its text as written, and the recipe with its overrides.
    pub(crate) fn read(&self) -> Result<(String, Recipe)> {
        let text =
            std::fs::read_to_string(&self.recipe).with_context(|| format!("cannot read {}", self.recipe.display()))?;
        let recipe = recipe::parse(&text, &self.recipe, &self.overrides.changes())?;
        Ok((text, recipe))
    }
}

/// Values of the recipe changed for one run.
#[derive(clap::Args)]
pub(crate) struct Overrides {
    /// Change one value: stage.group1.learning_rate=1e-4; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Take a key out, so that its default holds: stage.group1.epochs; before --set, may be given several times
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

impl Overrides {
    /// What is taken out, and then what is set.
    fn changes(&self) -> Vec<Override> {
        let unset = self.unset.iter().map(|key| Override::Unset { key: key.trim().to_owned() });
        unset.chain(self.set.iter().map(|(key, value)| Override::set(key, value))).collect()
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// The data of a recipe's stages, made in its run folder as a run would make them.
pub(crate) struct RecipeData<'a> {
    pub(crate) sources: Sources<'a>,
    _lock: FolderLock,
}

impl<'a> RecipeData<'a> {
    /// Generates the world, if the recipe has one, and opens the sources with the base model's tokenizer, which no stage changes.
    pub(crate) fn open(recipe: &'a Recipe) -> Result<Self> {
        let lock = FolderLock::take(recipe.folder())?;
        let time_seconds = findap_train::run::told_time(recipe)?;
        findap_train::run::make_world(recipe, &mut |_| {})?;
        Ok(Self { sources: Self::sources(recipe, time_seconds)?, _lock: lock })
    }

    /// The sources alone, in a run folder that the caller holds.
    pub(crate) fn sources(recipe: &'a Recipe, time_seconds: u64) -> Result<Sources<'a>> {
        let model =
            recipe.model.base.as_ref().or(recipe.model.tokenizer.as_ref()).context("the recipe names no model")?;
        Ok(Sources::open(recipe, model, time_seconds)?)
    }
}

/// A run folder that is removed with this value: a look at a recipe begins no run.
pub(crate) struct LookedAt(PathBuf);

impl LookedAt {
    /// The run folder of a resolved recipe; none where it is there already, and stays.
    pub(crate) fn of(recipe: &Recipe) -> Option<Self> {
        let folder = recipe.folder();
        (!folder.exists()).then(|| Self(folder.to_owned()))
    }
}

impl Drop for LookedAt {
    fn drop(&mut self) {
        // What cannot be removed is a folder with data that a run would make, too.
        std::fs::remove_dir_all(&self.0).ok();
    }
}
