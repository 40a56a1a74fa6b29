//! The verification of a run: it is made again, from its recipe, its data as they are now, the recorded replies of its judge and its
//! seeds, in a folder of its own, and what comes out is compared with what is there, to the bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use findap_data::files::file_sha256;
use findap_model::checkpoint::ADAPTER_WEIGHTS;
use serde_json::{Map, Value};

use super::Done;
use crate::error::{TrainError, io};
use crate::folder::read_json;
use crate::identity::Identity;
use crate::recipe::{self, DISTILLED_FILES, Judge, PREFERENCES_FILE, RIGHT_SOLUTIONS_FILE, Recipe, Stage};

/// A part of a run, made again and compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The stage, or `base`.
    pub stage: String,
    /// What of it: `files`, `training`, `model`, `samples`, `pairs`, `right solutions`, `scores`.
    pub part: &'static str,
    /// What was compared.
    pub what: String,
    /// Where the two differ first; `None` where every bit is equal.
    pub difference: Option<String>,
}

/// A verification that can be run: see [`prepare`].
#[derive(Debug)]
pub struct Verification {
    /// The run folder.
    pub folder: PathBuf,
    /// What is to be run, in the folder `verification` of the run folder.
    pub recipe: Recipe,
    /// How long the stages and evaluations took when they were made, in seconds.
    pub seconds: f64,
    /// Facts of the run's `provenance.json`, such as the processor; another machine may round in another way.
    pub provenance: Map<String, Value>,
}

/// Prepares the verification of what is finished in a run folder, or with `only` of that stage, which then begins with the stored model
/// before it. A verification that was stopped goes on.
///
/// # Errors
/// [`TrainError::Recipe`] for a folder that is none of a run; [`TrainError::NothingToTrain`] where nothing is finished;
/// [`TrainError::Io`].
pub fn prepare(folder: &Path, only: Option<&str>) -> Result<Verification, TrainError> {
    let mut recipe = recipe::load(&folder.join("resolved.toml"), &[])?;
    let place = folder.join("verification");
    // what was compared once is not what is to be compared now
    if place.join(COMPARED).exists() {
        fs::remove_dir_all(&place).map_err(io("remove", &place))?;
    }
    fs::create_dir_all(&place).map_err(io("make the folder", &place))?;
    copy_if_there(&folder.join("begun.json"), &place.join("begun.json"))?;
    let names: Vec<String> = recipe.stage.iter().map(|stage| stage.name().to_owned()).collect();
    let done = |name: &str| read_json::<Done>(&folder.join(name).join("done.json"));
    let nothing = |stage: &str, problem: String| TrainError::NothingToTrain { stage: stage.to_owned(), problem };
    let mut seconds = 0.0;
    let mut finished = Vec::new();
    for stage in std::mem::take(&mut recipe.stage) {
        let Some(done) = done(stage.name())? else { break };
        if only.is_none_or(|only| only == stage.name()) {
            seconds += done.seconds;
            finished.push(stage);
        } else if stage.makes_model() && finished.is_empty() {
            recipe.model.base = Some(folder.join(stage.name()).join("model"));
            (recipe.model.init, recipe.model.tokenizer) = (None, None);
        }
    }
    if finished.is_empty() {
        let problem = format!("it is not finished; the run has {}", names.join(", "));
        return Err(nothing(only.unwrap_or(&names[0]), problem));
    }
    if only.is_some() {
        for name in DISTILLED_FILES {
            copy_if_there(&folder.join(name), &place.join(name))?;
        }
    }
    recipe.stage = finished;
    for stage in &mut recipe.stage {
        if let Stage::Distill(stage) = stage
            && let Judge::Remote(judge) = &mut stage.judge
        {
            judge.recorded = Some(folder.join(&stage.name).join("judge.jsonl"));
        }
    }
    if let Some(eval) = &mut recipe.eval {
        let mut measured = eval.stages.take().unwrap_or_default();
        measured.retain(|name| only.is_none_or(|only| only == name));
        for name in &measured {
            seconds +=
                read_json::<Done>(&folder.join("eval").join(name).join("done.json"))?.map_or(0.0, |it| it.seconds);
        }
        measured.retain(|name| folder.join("eval").join(name).join("done.json").exists());
        eval.stages = Some(measured);
        let world = |folder: &Path| folder.join("data").join("world");
        eval.data.values_mut().filter(|data| **data == world(folder)).for_each(|data| *data = world(&place));
    }
    recipe.point_at(folder);
    recipe.run.folder = Some(place);
    let provenance = read_json(&folder.join("provenance.json"))?.unwrap_or_default();
    Ok(Verification { folder: folder.to_path_buf(), recipe, seconds, provenance })
}

/// The file in the folder of a verification that says that it was compared.
const COMPARED: &str = "compared.json";

impl Verification {
    /// Compares the run with what was made again of it, stage by stage.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn compare(&self) -> Result<Vec<Compared>, TrainError> {
        let mut compared = Vec::new();
        let measured = self.recipe.eval.iter().flat_map(|eval| eval.stages.iter().flatten());
        let is_measured = |name: &str| measured.clone().any(|stage| stage == name);
        if is_measured("base") {
            compared.push(self.scores("base")?);
        }
        for stage in &self.recipe.stage {
            compared.push(self.files(stage.name())?);
            match stage {
                Stage::Distill(_) => {
                    compared.extend([self.samples(stage.name())?, self.pairs(stage.name())?]);
                    compared.extend(self.right_solutions(stage.name())?);
                }
                Stage::Train(_) | Stage::Align(_) => {
                    compared.extend([self.training(stage.name())?, self.model(stage.name())?]);
                    if is_measured(stage.name()) {
                        compared.push(self.scores(stage.name())?);
                    }
                }
            }
        }
        let differing = compared.iter().filter(|part| part.difference.is_some()).count();
        crate::folder::write_json(&self.place().join(COMPARED), &differing)?;
        Ok(compared)
    }

    /// Removes what was made again.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn clear(&self) -> Result<(), TrainError> {
        fs::remove_dir_all(self.place()).map_err(io("remove", self.place()))
    }

    fn place(&self) -> &Path {
        self.recipe.folder()
    }

    fn both(&self, path: &Path) -> [PathBuf; 2] {
        [self.folder.join(path), self.place().join(path)]
    }

    /// The fingerprints of everything that a stage reads: data, exercises, the model before it.
    fn files(&self, stage: &str) -> Result<Compared, TrainError> {
        let read = |folder: &Path| -> Result<Identity, TrainError> {
            let mut identity: Identity = read_json(&folder.join(stage).join("identity.json"))?.unwrap_or_default();
            identity.retain(|key, _| ["model", "exercises"].contains(&key.as_str()) || key.starts_with("data."));
            Ok(identity)
        };
        let (was, now) = (read(&self.folder)?, read(self.place())?);
        let keys = was.keys().chain(now.keys()).find(|key| was.get(*key) != now.get(*key));
        let difference = keys.map(|key| format!("{key} is not what it was"));
        let what = match was.keys().filter(|key| key.starts_with("data.")).count() {
            0 => "the model before it, its exercises".to_owned(),
            1 => "the model before it, 1 source".to_owned(),
            count => format!("the model before it, {count} sources"),
        };
        Ok(compared(stage, "files", what, difference))
    }

    /// The lines of the training log, without times.
    fn training(&self, stage: &str) -> Result<Compared, TrainError> {
        let timeless = |value: &mut Value| drop(value.as_object_mut().and_then(|line| line.remove("tokens_per_s")));
        let [was, now] = self.both(&Path::new(stage).join("metrics.jsonl")).map(|path| lines(&path, timeless));
        let (was, now) = (was?, now?);
        let steps = was.iter().filter(|line| line.get("loss").is_some()).count();
        let difference = first_difference(&was, &now).map(|index| {
            let step = was.get(index).or(now.get(index)).map_or(Value::Null, |line| line["step"].clone());
            let loss = |lines: &[Value]| lines.get(index).map_or(Value::Null, |line| line["loss"].clone());
            format!("from step {step} on: loss {}, made again {}", loss(&was), loss(&now))
        });
        Ok(compared(stage, "training", format!("{steps} steps: losses, norms, rates"), difference))
    }

    /// Every file of a model folder, and the weights of the adapter that the stage trained, where it is one. The adapter's other file
    /// names the place of its base.
    fn model(&self, stage: &str) -> Result<Compared, TrainError> {
        let [was, now] = self.both(Path::new(stage)).map(|folder| {
            let mut hashes = hashes(&folder.join("model"))?;
            let adapter = folder.join("adapter").join(ADAPTER_WEIGHTS);
            if adapter.exists() {
                let hash = file_sha256(&adapter).map_err(io("read", &adapter))?;
                hashes.insert(format!("adapter/{ADAPTER_WEIGHTS}"), hash);
            }
            Ok::<_, TrainError>(hashes)
        });
        let (was, now) = (was?, now?);
        let differing = was.keys().chain(now.keys()).find(|name| was.get(*name) != now.get(*name));
        let difference = differing.map(|name| format!("{name} differs"));
        Ok(compared(stage, "model", format!("{} files", was.len()), difference))
    }

    /// Solutions and verdicts. What a reply of the judge that could not be read said is not recorded.
    fn samples(&self, stage: &str) -> Result<Compared, TrainError> {
        let without_unread = |value: &mut Value| {
            for solution in value["solutions"].as_array_mut().into_iter().flatten() {
                drop(solution.as_object_mut().and_then(|solution| solution.remove("unread")));
            }
        };
        let [was, now] = self.both(&Path::new(stage).join("samples.jsonl")).map(|path| lines(&path, without_unread));
        let (was, now) = (was?, now?);
        let difference = first_difference(&was, &now).map(|index| {
            let exercise = was.get(index).or(now.get(index)).map_or(Value::Null, |line| line["exercise"].clone());
            format!("from exercise {exercise} on")
        });
        Ok(compared(stage, "samples", format!("{} exercises: solutions, verdicts", was.len()), difference))
    }

    fn pairs(&self, stage: &str) -> Result<Compared, TrainError> {
        let [was, now] = self.both(Path::new(PREFERENCES_FILE)).map(|path| lines(&path, |_| ()));
        let (was, now) = (was?, now?);
        let difference = first_difference(&was, &now).map(|index| format!("from pair {} on", index + 1));
        Ok(compared(stage, "pairs", format!("{} pairs", was.len()), difference))
    }

    /// The right solutions; none of a run that was made before there were any.
    fn right_solutions(&self, stage: &str) -> Result<Option<Compared>, TrainError> {
        let [was, now] = self.both(Path::new(RIGHT_SOLUTIONS_FILE));
        if !was.exists() {
            return Ok(None);
        }
        let (was, now) = (lines(&was, |_| ())?, lines(&now, |_| ())?);
        let difference = first_difference(&was, &now).map(|index| format!("from solution {} on", index + 1));
        Ok(Some(compared(stage, "right solutions", format!("{} right solutions", was.len()), difference)))
    }

    /// The answers to every question, which decide the scores.
    fn scores(&self, stage: &str) -> Result<Compared, TrainError> {
        let [was, now] = self.both(&Path::new("eval").join(stage)).map(|folder| answers(&folder));
        let (was, now) = (was?, now?);
        let questions: usize = was.values().map(Vec::len).sum();
        let differing = was.keys().chain(now.keys()).find_map(|task| {
            let of = |all: &BTreeMap<String, Vec<Value>>| all.get(task).cloned().unwrap_or_default();
            first_difference(&of(&was), &of(&now)).map(|index| format!("{task}, answer {}", index + 1))
        });
        Ok(compared(
            stage,
            "scores",
            format!(
                "{questions} answers in {}",
                if was.len() == 1 { "1 task".to_owned() } else { format!("{} tasks", was.len()) }
            ),
            differing,
        ))
    }
}

fn compared(stage: &str, part: &'static str, what: String, difference: Option<String>) -> Compared {
    Compared { stage: stage.to_owned(), part, what, difference }
}

fn copy_if_there(from: &Path, to: &Path) -> Result<(), TrainError> {
    match from.exists() && !to.exists() {
        true => fs::copy(from, to).map(drop).map_err(io("copy", from)),
        false => Ok(()),
    }
}

fn first_difference(was: &[Value], now: &[Value]) -> Option<usize> {
    let differing = was.iter().zip(now).position(|(was, now)| was != now);
    differing.or_else(|| (was.len() != now.len()).then(|| was.len().min(now.len())))
}

/// The values of a JSONL file, without what `strip` takes off; none where there is no such file.
fn lines(path: &Path, strip: impl Fn(&mut Value)) -> Result<Vec<Value>, TrainError> {
    let text = match fs::read_to_string(path) {
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(io("read", path))?,
    };
    let value = |line: &str| {
        let mut value = serde_json::from_str(line).map_err(|error| io("read", path)(std::io::Error::other(error)))?;
        strip(&mut value);
        Ok(value)
    };
    text.lines().map(value).collect()
}

/// The SHA-256 of every file of a folder, by its name.
fn hashes(folder: &Path) -> Result<BTreeMap<String, String>, TrainError> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hash = |path: PathBuf| Ok((name(&path), file_sha256(&path).map_err(io("read", &path))?));
    entries(folder)?.into_iter().map(hash).collect()
}

/// The samples of every task of the newest results in a folder, by the task.
fn answers(folder: &Path) -> Result<BTreeMap<String, Vec<Value>>, TrainError> {
    let mut answers = BTreeMap::new();
    // names end with the time, so that the newest of a task comes last
    for path in entries(folder)? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let task =
            name.strip_prefix("samples_").and_then(|name| name.rsplit_once('_')).map(|(task, _)| task.to_owned());
        if let Some(task) = task.filter(|_| path.extension().is_some_and(|ending| ending == "jsonl")) {
            answers.insert(task, lines(&path, |_| ())?);
        }
    }
    Ok(answers)
}

/// The files of a folder, sorted; none where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(io("list", folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(io("list", folder)));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}
