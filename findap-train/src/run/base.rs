//! The model before the first stage.

use std::path::PathBuf;

use findap_model::{Config, Decoder, Dtype, text_directory};

use super::{Current, Done, Run, base_config};
use crate::error::TrainError;
use crate::folder::{read_json, write_json};
use crate::identity::{Identity, flatten, require_same};
use crate::recipe::SaveDtype;

impl Run<'_, '_> {
    /// The model before the first stage. Random weights are drawn once and kept, and an adapter is merged once: what a stage is trained
    /// beside is a model of its own, which the adapter that it makes can name.
    pub(super) fn base(&mut self) -> Result<Current, TrainError> {
        let recipe = self.recipe;
        let folder = match &recipe.model.base {
            None => self.drawn_base()?,
            Some(base) => {
                if recipe.model.save_dtype == SaveDtype::Bf16 && Config::load(base)?.stored_dtype() == Some("float32") {
                    let note = "the base model is stored in float32 and the stages' models in bf16, which rounds every number, of \
                                frozen parts too; `model.save_dtype = \"f32\"` keeps them";
                    self.note(note.to_owned());
                }
                if text_directory(base)? == *base { base.clone() } else { self.merged_base(base.clone())? }
            }
        };
        Ok(Current { fingerprint: findap_model::fingerprint(&folder)?, folder })
    }

    fn drawn_base(&mut self) -> Result<PathBuf, TrainError> {
        let model = &self.recipe.model;
        let mut identity = Identity::new();
        let init = model.init.clone().unwrap_or_default();
        let init = serde_json::to_value(init).expect("invariant: plain values are JSON");
        flatten("model.init", &init, &mut identity);
        identity.insert("run.seed".to_owned(), self.recipe.run.seed.to_string());
        if let Some(tokenizer) = &model.tokenizer {
            identity.insert("model.tokenizer".to_owned(), findap_model::tokenizer_fingerprint(tokenizer)?);
        }
        // weights are drawn in f32 and rounded once, when they are saved or loaded
        let dtype = if self.dtype() == Dtype::Bf16 { Dtype::F32 } else { self.dtype() };
        let draw = || Ok(Decoder::init(base_config(self.recipe)?, self.recipe.run.seed, dtype));
        self.made_base(identity, model.tokenizer.clone(), draw)
    }

    fn merged_base(&mut self, adapter: PathBuf) -> Result<PathBuf, TrainError> {
        let save_dtype = self.recipe.model.save_dtype;
        let base = text_directory(&adapter)?;
        self.note(format!("{} is an adapter; the base is {} with it merged", adapter.display(), base.display()));
        let mut identity = Identity::new();
        identity.insert("model.base".to_owned(), findap_model::fingerprint(&adapter)?);
        identity.insert("model.save_dtype".to_owned(), format!("{save_dtype:?}"));
        let merge = || Ok(Decoder::load(&adapter, save_dtype.dtype())?);
        self.made_base(identity, Some(base), merge)
    }

    /// The folder of a base that the run makes itself, unless it is made already; `carry_from` has tokenizer and template.
    fn made_base(
        &self,
        identity: Identity,
        carry_from: Option<PathBuf>,
        make: impl FnOnce() -> Result<Decoder, TrainError>,
    ) -> Result<PathBuf, TrainError> {
        let base = self.recipe.folder().join("base");
        let (folder, marker) = (base.join("model"), base.join("done.json"));
        match read_json::<Done>(&marker)? {
            Some(done) => require_same(&base, "base", &done.identity, &identity)?,
            None => {
                self.save(&make()?, &folder, carry_from)?;
                write_json(&marker, &Done { identity, model: None, steps: 0, best: None, seconds: 0.0 })?;
            }
        }
        Ok(folder)
    }
}
