//! Takes stages of a run back, so that they are made again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{TrainError, io};
use crate::folder::FolderLock;
use crate::recipe::{self, DISTILLED_FILES, Stage};

/// What of a run folder a stage and everything made from it are: folders and files that are there, in the order in which they are
/// removed.
///
/// # Errors
/// [`TrainError::Recipe`] for a folder that is none of a run, [`TrainError::NothingToTrain`] for a stage that it does not have.
pub fn made_from(folder: &Path, stage: &str) -> Result<Vec<PathBuf>, TrainError> {
    let recipe = recipe::load(&folder.join("resolved.toml"), &[])?;
    let stages: Vec<&Stage> = recipe.stage.iter().skip_while(|other| other.name() != stage).collect();
    if stages.is_empty() {
        let names: Vec<&str> = recipe.stage.iter().map(Stage::name).collect();
        let problem = format!("the run has no such stage; there are {}", names.join(", "));
        return Err(TrainError::NothingToTrain { stage: stage.to_owned(), problem });
    }
    let distills = stages.iter().any(|stage| matches!(stage, Stage::Distill(_)));
    let distilled = DISTILLED_FILES.into_iter().filter(|_| distills);
    let distilled = distilled.map(|name| folder.join(name));
    // The last first, and of a stage its measurement before its model: a kill leaves a run whose first stages are whole.
    let made =
        stages.iter().rev().flat_map(|stage| [folder.join("eval").join(stage.name()), folder.join(stage.name())]);
    Ok(distilled.chain(made).filter(|path| path.exists()).collect())
}

/// Removes a stage of a run and everything made from it; what was removed. The next `run` makes them again.
///
/// # Errors
/// As [`made_from`]; [`TrainError::Locked`] while the run goes on, [`TrainError::Io`].
pub fn reset(folder: &Path, stage: &str) -> Result<Vec<PathBuf>, TrainError> {
    let made = made_from(folder, stage)?;
    let _lock = FolderLock::take(folder)?;
    let inside = folder.canonicalize().map_err(io("find", folder))?;
    for path in &made {
        let place = path.canonicalize().map_err(io("find", path))?;
        if path.is_symlink() || !place.starts_with(&inside) {
            let elsewhere = format!("it is a link, to {}; remove it yourself if that is meant", place.display());
            return Err(io("remove", path)(std::io::Error::other(elsewhere)));
        }
    }
    for path in &made {
        // Without its marker a stage that is removed in part is not done.
        let marker = path.join("done.json");
        if marker.exists() {
            fs::remove_file(&marker).map_err(io("remove", &marker))?;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(io("remove", path))?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_removed_with_what_was_made_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let recipe =
            "schema = 1\n[run]\nname = \"r\"\n[model]\nbase = \"b\"\n[[data]]\nname = \"news\"\npath = \"n.jsonl\"\n\
                      kind = \"text\"\n"
                .to_owned();
        let stage = |name| {
            format!(
                "[[stage]]\nname = \"{name}\"\nkind = \"train\"\ntext = [\"news\"]\nsteps = 1\nbatch_tokens = 64\n\
                     learning_rate = 1e-3\n"
            )
        };
        fs::write(at("resolved.toml"), recipe + &stage("first") + &stage("second") + &stage("third")).unwrap();
        for file in ["first/model/w", "second/done.json", "third/metrics.jsonl", "eval/base/r", "eval/second/r", "log"]
        {
            fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            fs::write(at(file), "{}").unwrap();
        }
        let error = reset(folder.path(), "secnd").unwrap_err().to_string();
        assert!(error.contains("first, second, third"), "{error}");
        assert!(reset(&at("first"), "first").is_err(), "no folder of a run");
        let removed = [at("third"), at("eval/second"), at("second")];
        assert_eq!(made_from(folder.path(), "second").unwrap(), removed);
        assert_eq!(reset(folder.path(), "second").unwrap(), removed);
        assert!(["first/model/w", "eval/base/r", "log"].iter().all(|kept| at(kept).exists()));
        assert_eq!(reset(folder.path(), "second").unwrap(), [""; 0].map(PathBuf::from));

        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("done.json"), "{}").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), at("third")).unwrap();
        let error = reset(folder.path(), "first").unwrap_err().to_string();
        assert!(error.contains("link"), "{error}");
        assert!(elsewhere.path().join("done.json").exists() && at("first/model/w").exists(), "nothing was removed");
    }
}
